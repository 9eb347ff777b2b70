"""Makes a language model with random weights and any vocabulary, in the form of each engine.

The times do not depend on what a model has learned. Its words are numbered, so that a prompt has as
many tokens as words, and one more for the beginning.

onnxruntime-genai has an environment of its own. Its builder, a script in that environment, reads
checkpoints with transformers 5 and therefore runs in another one.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import random
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from benchmarks.errors import BenchmarkError
from benchmarks.language.speed.answer_loop import Request
from benchmarks.language.speed.engines import GENAI, OPTIMUM
from benchmarks.processes import last_line
from export.commands.language import LanguageSettings
from export.exporters import OPSET, quiet
from train.models.language import save_language_model
from train.models.untrained import Shape, untrained_language_model

SHAPE: Final = Shape(width=256, layers=2, heads=8, kv_heads=8, inner=688, context=512)
_SPECIAL: Final = ("<pad>", "<bos>", "<eos>")
_GAIN: Final = 1.6  # spread of a layer's outputs relative to its inputs
_VERIFIED_TOKENS: Final = 8  # per prompt of the export's check; any number can be generated here
_ROOT: Final = Path(__file__).parents[3]
GENAI_PYTHON: Final = _ROOT / ".venv-genai" / "bin" / "python"
GENAI_MISSING: Final = "onnxruntime-genai is not installed: make .venv-genai/.installed"
_BUILDER_PYTHON: Final = _ROOT / ".venv-transformers5" / "bin" / "python"
_BUILDER: Final = "lib/python*/site-packages/onnxruntime_genai/models/builder.py"


@dataclass(frozen=True)
class ModelForms:
    """A model in the forms that the engines read.

    Attributes:
        shape: Its shape.
        vocabulary: Number of its words, the three special ones included.
        checkpoint: Folder of the checkpoint.
        bundle: Folder of our bundle.
        optimum: Folder of optimum's export; None without optimum.
        genai: Folder that onnxruntime-genai's builder wrote; None without onnxruntime-genai.
    """

    shape: Shape
    vocabulary: int
    checkpoint: Path
    bundle: Path
    optimum: Path | None
    genai: Path | None

    @property
    def size(self) -> str:
        """Text with its width, depth and vocabulary."""
        shape = self.shape
        return f"hidden {shape.width}, {shape.layers} layers, vocabulary {self.vocabulary}"

    def request(self, length: int, new_tokens: int, seed: int) -> Request:
        """Return a request with a random prompt and no mode.

        Args:
            length: Tokens of the prompt, the first of them `<bos>`.
            new_tokens: Number of tokens to generate.
            seed: Seed of the prompt.
        """
        draws = random.Random(seed)
        words = draws.choices(range(len(_SPECIAL), self.vocabulary), k=length - 1)
        text = " ".join(map(_word, words))
        return Request("", text, (_SPECIAL.index("<bos>"), *words), new_tokens)


def make_model(
    folder: Path,
    vocabulary: int,
    seed: int,
    *,
    shape: Shape = SHAPE,
    answer_tokens: int = _VERIFIED_TOKENS,
    peers: Collection[str] = (OPTIMUM, GENAI),
) -> ModelForms:
    """Write a model, our bundle of it, and the exports of the peers that are installed.

    Args:
        folder: An existing folder for all of them.
        vocabulary: Number of words.
        seed: Seed of the weights.
        shape: Shape of the model.
        answer_tokens: Token limit of the bundle, if a caller sets none.
        peers: Engines whose exports are wanted.

    Raises:
        BenchmarkError: A peer's export failed.
    """
    model = untrained_language_model("llama", shape, numbered_tokenizer(vocabulary), seed=seed)
    _spread(model.model, seed)
    checkpoint, bundle = folder / "model", folder / "bundle"
    save_language_model(model, checkpoint)
    _export(checkpoint, bundle, answer_tokens, threshold=-math.inf)
    optimum = _export_optimum(checkpoint, folder / OPTIMUM) if OPTIMUM in peers else None
    genai = folder / GENAI if GENAI in peers and is_genai_installed() else None
    if genai is not None:
        build_genai(checkpoint, genai)
    return ModelForms(shape, vocabulary, checkpoint, bundle, optimum, genai)


def numbered_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows numbered words and puts `<bos>` before a text.

    Args:
        vocabulary: Number of tokens, three special ones included.
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
    """Draw weights with such a spread that the layers decide on the next token.

    With the usual weights, a tied output layer repeats the last token, and equal answers from all
    engines would prove little.
    """
    draws = torch.Generator().manual_seed(seed)
    spread = _GAIN / math.sqrt(model.config.hidden_size)
    with torch.no_grad():
        for values in model.parameters():
            if values.ndim > 1:
                values.normal_(0.0, spread, generator=draws)


def quantize(forms: ModelForms, kind: str, folder: Path, prompts: Sequence[str]) -> Path:
    """Export a model quantized; return the bundle.

    Args:
        forms: The model.
        kind: Quantization, `fp16`, `int8-dynamic` or `int4`.
        folder: An existing folder for the bundle and for the task that chooses its threshold.
        prompts: Prompts of that task. Its completions are meaningless: neither the accuracy of
            random weights nor a changed decision matters here.
    """
    task = folder / f"task-{kind}"
    task.mkdir()
    lines = [json.dumps({"prompt": prompt, "completion": _word(3)}) for prompt in prompts]
    for split in ("train", "validation", "test"):
        (task / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    bundle = folder / kind
    goal = {"calibrate": str(task), "target_deferral": 0.5, "max_flips": 1.0}
    _export(forms.checkpoint, bundle, _VERIFIED_TOKENS, quantize=kind, **goal)
    return bundle


def _export(checkpoint: Path, bundle: Path, answer_tokens: int, **settings: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # its output would stand between the figures
        LanguageSettings(
            checkpoint=checkpoint, max_new_tokens=answer_tokens, out=bundle, **settings
        ).run()


def _export_optimum(checkpoint: Path, folder: Path) -> Path | None:
    """Export as optimum does for `ORTModelForCausalLM`; None if it is not installed."""
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
            do_validation=False,  # its tokens are compared with ours
        )
    return folder


def is_genai_installed() -> bool:
    """Return whether the environments of onnxruntime-genai and of its builder exist."""
    return GENAI_PYTHON.exists() and _BUILDER_PYTHON.exists()


def build_genai(checkpoint: Path, folder: Path) -> None:
    """Write a model of onnxruntime-genai in float32 for the CPU.

    Args:
        checkpoint: Folder of a language model that the builder knows.
        folder: Folder to write.

    Raises:
        BenchmarkError: The builder is missing, or failed.
    """
    environment = GENAI_PYTHON.parents[1]
    builder = next(environment.glob(_BUILDER), None)
    if builder is None:
        raise BenchmarkError(f"expected {_BUILDER} in {environment}, got none: {GENAI_MISSING}")
    line = [_BUILDER_PYTHON, builder, "-i", checkpoint, "-o", folder, "-p", "fp32", "-e", "cpu"]
    # Without this option the output layer works on every position of the prompt.
    options = ["-c", folder / "cache", "--extra_options", "prune_lm_head=true"]
    done = subprocess.run(
        list(map(str, [*line, *options])),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        reason = last_line(done.stderr)
        raise BenchmarkError(f"expected a graph from onnxruntime-genai's builder: {reason}")
