"""Makes a language model for timing: random weights, a vocabulary of any size, every export of it.

What is timed does not depend on what a model learned. Its words are numbered, so that a prompt has
as many tokens as it has words, and one more for the beginning.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from benchmarks.language.speed import genai
from benchmarks.language.speed.answer_loop import Request
from export.exporters import OPSET, quiet
from train.models.language import save_language_model
from train.models.untrained import Shape, untrained_language_model

OPTIMUM: Final = "optimum"
GENAI: Final = "genai"
SHAPE: Final = Shape(width=256, layers=2, heads=8, kv_heads=8, inner=688, context=512)
_SPECIAL: Final = ("<pad>", "<bos>", "<eos>")
_GAIN: Final = 1.6  # of a layer: how much wider than its inputs its outputs spread
_VERIFIED_TOKENS: Final = 8  # by the export, of each of its prompts; here any number is asked for


@dataclass(frozen=True)
class Made:
    """A model in the forms of those that generate with it.

    Attributes:
        shape: Its size.
        vocabulary: How many words it has, the three special ones counted.
        checkpoint: Its folder.
        bundle: Ours.
        optimum: Folder of optimum's export, None without optimum.
        genai: Folder of onnxruntime-genai's builder, None without onnxruntime-genai.
    """

    shape: Shape
    vocabulary: int
    checkpoint: Path
    bundle: Path
    optimum: Path | None
    genai: Path | None

    @property
    def size(self) -> str:
        """Its size in words."""
        shape = self.shape
        return f"hidden {shape.width}, {shape.layers} layers, vocabulary {self.vocabulary}"

    def request(self, length: int, new_tokens: int, seed: int) -> Request:
        """Return a request with a random prompt; its way is left open.

        Args:
            length: Tokens of the prompt, the first of them `<bos>`.
            new_tokens: How many to generate.
            seed: Of the prompt.
        """
        draws = random.Random(seed)
        words = draws.choices(range(len(_SPECIAL), self.vocabulary), k=length - 1)
        text = " ".join(map(_word, words))
        return Request("", text, (_SPECIAL.index("<bos>"), *words), new_tokens)


def make(
    folder: Path,
    vocabulary: int,
    seed: int,
    *,
    shape: Shape = SHAPE,
    answer_tokens: int = _VERIFIED_TOKENS,
    peers: Collection[str] = (OPTIMUM, GENAI),
) -> Made:
    """Write a model, our bundle of it, and the peers' exports as far as they are installed.

    Args:
        folder: Exists; gets everything.
        vocabulary: How many words.
        seed: Of the weights.
        shape: Of the model.
        answer_tokens: Most tokens of an answer where a caller names no limit.
        peers: Whose exports are wanted.

    Raises:
        BenchmarkError: A peer's export failed.
    """
    model = untrained_language_model("llama", shape, numbered_words(vocabulary), seed=seed)
    _spread(model.model, seed)
    checkpoint, bundle = folder / "model", folder / "bundle"
    save_language_model(model, checkpoint)
    _export(checkpoint, bundle, answer_tokens)
    optimum = _optimum(checkpoint, folder / OPTIMUM) if OPTIMUM in peers else None
    built = folder / GENAI if GENAI in peers and genai.is_installed() else None
    if built is not None:
        genai.build(checkpoint, built)
    return Made(shape, vocabulary, checkpoint, bundle, optimum, built)


def numbered_words(vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose words are `w3`, `w4`, ...: their tokens' numbers.

    Args:
        vocabulary: How many tokens, three special ones among them.
    """
    words = [*_SPECIAL, *map(_word, range(len(_SPECIAL), vocabulary))]
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=words[-1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", numbers["<bos>"])]
    )
    names = dict(zip(("pad_token", "bos_token", "eos_token"), _SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _word(number: int) -> str:
    return f"w{number}"


def _spread(model: Any, seed: int) -> None:
    """Draw weights so wide that the layers decide on the next token.

    As they are usually drawn, a tied output layer says the last token again and again, and that all
    say the same would prove little.
    """
    draws = torch.Generator().manual_seed(seed)
    spread = _GAIN / math.sqrt(model.config.hidden_size)
    with torch.no_grad():
        for values in model.parameters():
            if values.ndim > 1:
                values.normal_(0.0, spread, generator=draws)


def quantized(made: Made, kind: str, folder: Path, prompts: Sequence[str]) -> Path:
    """Export a model quantized; return the bundle.

    Args:
        made: The model.
        kind: `fp16`, `int8-dynamic` or `int4`.
        folder: Exists; gets the bundle, and the task that chooses its threshold.
        prompts: Of that task. Its completions say nothing: how well random weights answer does not
            matter here, and neither do the decisions that differ.
    """
    task = folder / f"task-{kind}"
    task.mkdir()
    lines = [json.dumps({"prompt": prompt, "completion": _word(3)}) for prompt in prompts]
    for split in ("train", "validation", "test"):
        (task / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    bundle = folder / kind
    goal = {"calibrate": str(task), "target_deferral": 0.5, "max_flips": 1.0}
    _export(made.checkpoint, bundle, _VERIFIED_TOKENS, quantize=kind, **goal)
    return bundle


def _export(checkpoint: Path, bundle: Path, answer_tokens: int, **settings: Any) -> None:
    from export.commands.language import LanguageSettings

    chosen = settings or {"threshold": -math.inf}
    with _in_silence():
        LanguageSettings(
            checkpoint=checkpoint, max_new_tokens=answer_tokens, out=bundle, **chosen
        ).run()


def _optimum(checkpoint: Path, folder: Path) -> Path | None:
    """Export as optimum does for `ORTModelForCausalLM`; nothing where it is not installed."""
    try:
        from optimum.exporters.onnx import main_export
    except ImportError:
        return None
    with quiet():
        main_export(
            str(checkpoint),
            output=folder,
            task="text-generation-with-past",
            opset=OPSET,
            do_validation=False,  # what it generates is held to ours
        )
    return folder


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    """Keep what a step says from standing between the figures."""
    with Path(os.devnull).open("w", encoding="utf-8") as quiet, contextlib.redirect_stdout(quiet):
        yield
