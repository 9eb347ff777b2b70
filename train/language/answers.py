"""What a language model says to a split of a task: the raw material of all comparisons."""

from __future__ import annotations

import io
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
from train.data.tasks import Example, Task
from train.errors import CheckpointError, DataError

# MERGEDOC train/language/quantiles.py: 'Token-level uncertainty of an answer: quantiles of its tokens\' log-probabilities.\n\nGupta et al. 2024, "Language Model Cascades: Token-level uncertainty and beyond": the sum of the\nlog-probabilities grows with the length of an answer, the mean hides a single token that was\nguessed; quantiles over the tokens keep both apart. The lowest is the least likely token.\n'
from train.models import Generated, LanguageModel

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
_ARRAYS = ("right", "tokens", "quantiles", "watched")

LEVELS: Final = tuple(i / 10 for i in range(11))
"""From the least likely token to the likeliest, in tenths."""


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of one model to n examples.

    Attributes:
        ids: Of the examples.
        texts: What was generated.
        parsed: The answers that were read from it; None where there is none.
        right: Where it is the right one, bool [n].
        confidence: By kind of `metrics.SEQUENCE_KINDS`: float64 [n]; NaN defers.
        quantiles: Of the log-probabilities of an answer's tokens, float64 [n, Q]; see
            `train.language.answers`.
        watched: Log-probability of the watched token as the first of the answer, float64 [n]; NaN
            where none was watched.
        tokens: How many tokens were generated, int64 [n].
        seconds: Time that all answers took.
        refused: By reason: how many prompts were not answered.
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
        """Where no answer could be read, bool [n]."""
        return np.array([answer is None for answer in self.parsed], np.bool_)

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens a second; 0 where none was."""
        return float(self.tokens.sum() / self.seconds) if self.seconds else 0.0


def answer_split(
    model: LanguageModel,
    task: Task,
    examples: Sequence[Example],
    *,
    instruction: str | None = None,
    watch_text: str | None = None,
) -> Answers:
    """Let a model answer examples, greedily, with a progress bar where somebody watches.

    Args:
        model: Whom to ask.
        task: How its answers are read.
        examples: n of them, of any split.
        instruction: A sentence that stands before every prompt; see `instructed`.
        watch_text: An answer whose probability is wanted; see `first_token`.

    Raises:
        CheckpointError: The tokenizer has no token for `watch_text`.
    """
    prompts = [instructed(example.prompt, instruction) for example in examples]
    spaced = any(example.completion.startswith(" ") for example in examples)
    watch = None if watch_text is None else first_token(model.tokenizer, watch_text, spaced=spaced)
    with tqdm(total=len(prompts), unit="answer", desc=task.name, disable=None) as bar:
        made = model.generate(prompts, task.max_new_tokens, watch=watch, progress=bar.update)
        bar.update(len(prompts) - bar.n)  # those that were refused
    return _read(made, task, examples)


def instructed(prompt: str, instruction: str | None) -> str:
    """Put an instruction before a prompt, a paragraph of its own.

    In front of everything, and not before the last words: which of these are the cue of the answer
    only the task knows, and what stands right before an answer is what a model was taught to
    answer. An empty prompt stays empty, so that it is refused as it would be without.
    """
    return prompt if instruction is None or not prompt.strip() else f"{instruction}\n\n{prompt}"


def first_token(tokenizer: Any, text: str, *, spaced: bool = True) -> int:
    """Return the token that an answer begins with, where it alone says what is answered.

    That is a space and the text where this is a token, and otherwise the text: a token of the space
    alone would begin every other answer too.

    Args:
        tokenizer: Of the model.
        text: The answer.
        spaced: Whether answers begin with a space.

    Raises:
        CheckpointError: Neither is one token.
    """
    for form in (f" {text}", text) if spaced else (text,):
        ids = tokenizer(form, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return int(ids[0])
    raise CheckpointError(
        f"expected a tokenizer with one token for {text!r}, this one takes several: its "
        "probability as an answer can't be read, leave this rival out"
    )


def _read(made: Generated, task: Task, examples: Sequence[Example]) -> Answers:
    return Answers(
        ids=tuple(example.id for example in examples),
        texts=made.texts,
        parsed=tuple(map(task.parse, made.texts)),
        right=np.array(
            [task.is_right(text, e) for text, e in zip(made.texts, examples, strict=True)], np.bool_
        ),
        confidence={kind: made.confidence(kind) for kind in metrics.SEQUENCE_KINDS},
        quantiles=token_quantiles(made.logprob, made.counted),
        watched=made.watched,
        tokens=made.counted.sum(axis=1),
        seconds=made.wall_time_s,
        refused=dict(Counter(made.refused.values()).most_common()),
    )


def save_answers(path: Path, answers: Answers) -> None:
    """Write answers in one step, so that a kill leaves none or whole ones."""
    words = {
        "ids": answers.ids,
        "texts": answers.texts,
        "parsed": answers.parsed,
        "seconds": answers.seconds,
        "refused": answers.refused,
    }
    arrays: dict[str, Any] = {name: getattr(answers, name) for name in _ARRAYS}
    arrays |= {f"confidence/{kind}": values for kind, values in answers.confidence.items()}
    # As JSON: an array of texts would pad every one to the longest.
    arrays["words"] = np.frombuffer(json.dumps(words).encode(), np.uint8)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_atomically(path, content.getvalue())


def load_answers(path: Path) -> Answers:
    """Read what `save_answers` wrote.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        # From memory: of a damaged file numpy leaves the handle open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            words = json.loads(file["words"].tobytes())
            return Answers(
                ids=tuple(words["ids"]),
                texts=tuple(words["texts"]),
                parsed=tuple(words["parsed"]),
                seconds=words["seconds"],
                refused=words["refused"],
                confidence={kind: file[f"confidence/{kind}"] for kind in metrics.SEQUENCE_KINDS},
                **{name: file[name] for name in _ARRAYS},
            )
    except Exception as error:  # noqa: BLE001 - a damaged archive raises nearly anything
        raise DataError(
            f"expected answers of a language model in {path}: {error}: ask it again"
        ) from None


def token_quantiles(logprob: Floats, counted: npt.NDArray[np.bool_]) -> Floats:
    """Return the quantiles at `LEVELS` of each answer, linear between two tokens.

    Args:
        logprob: Log-probabilities of the tokens, float64 [n, T].
        counted: Which tokens were generated, bool [n, T].

    Returns:
        float64 [n, Q]; NaN where no token was generated or one has none.
    """
    rows = np.full((len(logprob), len(LEVELS)), np.nan)
    for i, (values, flags) in enumerate(zip(logprob, counted, strict=True)):
        if flags.any() and not np.isnan(values[flags]).any():
            rows[i] = np.quantile(values[flags], LEVELS)
    return rows
