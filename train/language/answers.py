"""The answers of a language model to a split of a task, which every comparison starts from.

The sum of an answer's log-probabilities falls with its length, and their mean hides a single token
that was guessed; quantiles over the tokens keep both apart. The lowest is the least likely token
(Gupta et al. 2024, "Language Model Cascades: Token-level uncertainty and beyond").
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from edge_runtime import metrics
from edge_runtime.files import write_atomically
from edge_runtime.reading import open_arrays, parse_json
from train.data.tasks import Example, Task
from train.errors import CheckpointError, DataError
from train.models import Generated, LanguageModel

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
LEVELS: Final = tuple(i / 10 for i in range(11))
"""Levels of the quantiles, in tenths: from the least likely token of an answer to the likeliest."""
UNPARSED: Final = -1
"""Code of an answer that the task's parser cannot read."""
_ARRAYS = ("right", "tokens", "quantiles", "watched")


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of one model to n examples.

    Attributes:
        ids: Ids of the examples.
        texts: The generated texts.
        parsed: The answers in the parser's form; None for a text that it cannot read.
        right: Whether the answer is right, bool [n].
        confidence: Kind of `metrics.SEQUENCE_KINDS` -> float64 [n]; NaN defers.
        quantiles: Quantiles of the log-probabilities of an answer's tokens at `LEVELS`, float64
            [n, Q].
        watched: Log-probability of the watched token as the first of the answer, float64 [n]; NaN
            if none was watched.
        tokens: Number of generated tokens, int64 [n].
        seconds: Time for all answers.
        refused: Reason -> number of prompts that were not answered.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    parsed: tuple[str | None, ...]
    right: Bools
    confidence: Mapping[str, Floats]
    quantiles: Floats
    watched: Floats
    tokens: npt.NDArray[np.int64]
    seconds: float
    refused: Mapping[str, int]

    @property
    def unparsed(self) -> Bools:
        """Answers that could not be read, bool [n]."""
        return np.array([answer is None for answer in self.parsed], np.bool_)

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second; 0 if none was generated."""
        return float(self.tokens.sum() / self.seconds) if self.seconds else 0.0

    @property
    def codes(self) -> npt.NDArray[np.int32]:
        """Numbers of the parsed answers, int32 [n]: the same for the same, or `UNPARSED`."""
        known = dict.fromkeys(answer for answer in self.parsed if answer is not None)
        codes = {answer: code for code, answer in enumerate(known)}
        return np.array([UNPARSED if p is None else codes[p] for p in self.parsed], np.int32)


def most_frequent(codes: npt.NDArray[np.integer[Any]]) -> float:
    """Return the share of the most frequent answer among those that parse; NaN if none does.

    A collapsed model gives the same answer to everything.

    Args:
        codes: Numbers of the answers, as `Answers.codes`.
    """
    counts = np.unique_counts(codes[codes != UNPARSED]).counts
    return float(counts.max() / counts.sum()) if counts.size else float("nan")


def answer_split(
    model: LanguageModel,
    task: Task,
    examples: Sequence[Example],
    *,
    instruction: str | None = None,
    watch_text: str | None = None,
) -> Answers:
    """Let a model answer examples greedily, with a progress bar on a terminal.

    Args:
        model: The model.
        task: The task, which reads the answers.
        examples: n examples of any split.
        instruction: Sentence before every prompt; see `with_instruction`.
        watch_text: Answer whose probability is recorded; see `first_token`.

    Raises:
        CheckpointError: The tokenizer has no token for `watch_text`.
    """
    prompts = [with_instruction(example.prompt, instruction) for example in examples]
    spaced = any(example.completion.startswith(" ") for example in examples)
    watch = None if watch_text is None else first_token(model.tokenizer, watch_text, spaced=spaced)
    with tqdm(total=len(prompts), unit="answer", desc=task.name, disable=None) as bar:
        generated = model.generate(prompts, task.max_new_tokens, watch=watch, progress=bar.update)
        bar.update(len(prompts) - bar.n)  # the refused prompts
    return _parse(generated, task, examples)


def with_instruction(prompt: str, instruction: str | None) -> str:
    """Return a prompt with an instruction before it, in a paragraph of its own.

    It stands before the whole prompt: only the task knows which of the last words are the cue of
    the answer, and the model was taught to answer right after that cue. An empty prompt stays
    empty, so that it is refused as it would be without an instruction.
    """
    return prompt if instruction is None or not prompt.strip() else f"{instruction}\n\n{prompt}"


def first_token(tokenizer: Any, text: str, *, spaced: bool = True) -> int:
    """Return the token that an answer begins with, if that token alone identifies the answer.

    It is the token of a space and the text, or else of the text alone: a token of just the space
    would begin every other answer too.

    Args:
        tokenizer: The model's tokenizer.
        text: The answer.
        spaced: Whether answers begin with a space.

    Raises:
        CheckpointError: Neither is a single token.
    """
    for form in (f" {text}", text) if spaced else (text,):
        ids = tokenizer(form, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return int(ids[0])
    raise CheckpointError(
        f"expected a tokenizer with one token for {text!r}, this one takes several: the "
        "probability of that answer cannot be read, leave this rival out"
    )


def _parse(generated: Generated, task: Task, examples: Sequence[Example]) -> Answers:
    texts = generated.texts
    return Answers(
        ids=tuple(example.id for example in examples),
        texts=texts,
        parsed=tuple(map(task.parse, texts)),
        right=np.array([task.is_right(*pair) for pair in zip(texts, examples, strict=True)], bool),
        confidence={kind: generated.confidence(kind) for kind in metrics.SEQUENCE_KINDS},
        quantiles=token_quantiles(generated.logprob, generated.counted),
        watched=generated.watched,
        tokens=generated.counted.sum(axis=1),
        seconds=generated.wall_time_s,
        refused=dict(Counter(generated.refused.values()).most_common()),
    )


def save_answers(path: Path, answers: Answers) -> None:
    """Write answers in one step, so that a kill leaves all of them or none."""
    texts = {
        "ids": answers.ids,
        "texts": answers.texts,
        "parsed": answers.parsed,
        "seconds": answers.seconds,
        "refused": answers.refused,
    }
    arrays: dict[str, Any] = {name: getattr(answers, name) for name in _ARRAYS}
    arrays |= {f"confidence/{kind}": values for kind, values in answers.confidence.items()}
    # As JSON: an array of texts would pad every one to the longest.
    arrays["words"] = np.frombuffer(json.dumps(texts).encode(), np.uint8)
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def load_answers(path: Path) -> Answers:
    """Read what `save_answers` wrote.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        with open_arrays(path) as file:
            texts = parse_json(file["words"].tobytes().decode())
            return Answers(
                ids=tuple(texts["ids"]),
                texts=tuple(texts["texts"]),
                parsed=tuple(texts["parsed"]),
                seconds=texts["seconds"],
                refused=texts["refused"],
                confidence={kind: file[f"confidence/{kind}"] for kind in metrics.SEQUENCE_KINDS},
                **{name: file[name] for name in _ARRAYS},
            )
    except Exception as error:  # noqa: BLE001 - a damaged archive raises almost anything
        raise DataError(
            f"expected answers of a language model in {path}: {error}: let the model answer again"
        ) from None


def token_quantiles(logprob: Floats, counted: Bools) -> Floats:
    """Return the quantiles at `LEVELS` of each answer, linear between two tokens.

    Args:
        logprob: Log-probabilities of the tokens, float64 [n, T].
        counted: Whether a token was generated, bool [n, T].

    Returns:
        float64 [n, Q]; NaN for an answer without tokens, or with a NaN among them.
    """
    rows = np.full((len(logprob), len(LEVELS)), np.nan)
    for i, (values, flags) in enumerate(zip(logprob, counted, strict=True)):
        if flags.any() and not np.isnan(values[flags]).any():
            rows[i] = np.quantile(values[flags], LEVELS)
    return rows
