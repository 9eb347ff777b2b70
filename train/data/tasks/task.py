"""A task of a language model: prompts, right answers, and the parser that reads an answer."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from train.data.labelled import split_stratified
from train.data.tasks.parsers import Parser
from train.data.tasks.rows import Row, SplitRows
from train.errors import DataError

_SHARE: Final = 0.1
_MARGIN: Final = 8  # EOS, and a space that a tokenizer may add
_NAMED: Final = 5


@dataclass(frozen=True)
class Example:
    """One question with its right answer.

    Attributes:
        id: A stable name.
        prompt: The whole text before the answer, without a trailing space.
        completion: The text that a model learns to answer, with its leading space, without EOS.
        gold: The right answer in the parser's form.
    """

    id: str
    prompt: str
    completion: str
    gold: str


@dataclass(frozen=True)
class Task:
    """Examples of one kind, and the parser of their answers.

    Attributes:
        name: The name or path it was loaded by.
        train: Training split; some published tasks have none.
        validation: Validation split, carved out of train if the data have none; empty if train is.
        test: Test split.
        parse: Returns the answer in a generated text in canonical form, or None if it has none.
        max_new_tokens: Enough for every right completion, even at one token per byte.
        answers: The closed set of answers in the parser's form; empty for open answers.
        left_out: Ids of examples whose right answer the parser cannot read; no split has them.
    """

    name: str
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    parse: Callable[[str], str | None]
    max_new_tokens: int
    answers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def is_right(self, text: str, example: Example) -> bool:
        """Return whether a generated text gives the right answer."""
        return self.parse(text) == example.gold

    def fingerprint(self) -> str:
        """Return a sha256 over ids, prompts and completions of all splits."""
        digest = hashlib.sha256()
        for split, examples in self.splits().items():
            digest.update(f"{split} {len(examples)}\n".encode())
            for example in examples:
                for part in (example.id, example.prompt, example.completion):
                    content = part.encode()
                    # The length keeps two neighbours from being taken for another pair.
                    digest.update(len(content).to_bytes(8, "big"))
                    digest.update(content)
        return digest.hexdigest()

    def limited(self, limit: int | None) -> Task:
        """Keep at most `limit` examples of each split, evenly spaced; None keeps all."""
        if limit is None:
            return self
        return dataclasses.replace(
            self,
            train=_spread(self.train, limit),
            validation=_spread(self.validation, limit),
            test=_spread(self.test, limit),
        )

    def splits(self) -> dict[str, tuple[Example, ...]]:
        """Return the splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def _spread(examples: tuple[Example, ...], limit: int) -> tuple[Example, ...]:
    if len(examples) <= limit:
        return examples
    return tuple(examples[i * len(examples) // limit] for i in range(limit))


def convert_rows(
    rows: SplitRows, convert: Callable[[Row, str], Example]
) -> dict[str, list[Example]]:
    """Return the examples of each split.

    Args:
        rows: Split -> rows.
        convert: Converts a row to an example; its second argument is an id for rows without one.

    Raises:
        DataError: A row is damaged.
    """
    return {
        split: [convert(row, f"{split}-{i}") for i, row in enumerate(part)]
        for split, part in rows.items()
    }


def assemble(
    name: str,
    examples: dict[str, list[Example]],
    parse: Parser,
    *,
    seed: int,
    answers: tuple[str, ...] = (),
) -> Task:
    """Return a task, with unique ids and without examples whose right answer cannot be read.

    An example is left out if the parser does not read its gold answer in its completion; gold is ""
    if the data hold no valid answer. A note on standard error counts and names them.

    Args:
        name: Name of the task.
        examples: Split -> examples; a missing `validation` or `test` is carved out of `train`.
        parse: Parser of the answers.
        seed: Seed of carved splits.
        answers: The closed set of answers; empty for open answers.

    Raises:
        DataError: Nothing is left, or a missing split cannot be carved out.
    """
    _check_characters(examples)
    kept, left_out = _select_readable(_make_unique(examples), parse)
    if not any(kept.values()):
        raise DataError(
            f"expected answers that can be read in {name}, none of {len(left_out)} can "
            f"({', '.join(left_out[:_NAMED])} ...): check the answers in the data"
        )
    _report_left_out(name, left_out)
    train, validation, test = _complete_splits(name, kept, seed, closed=bool(answers))
    longest = max(len(e.completion.encode()) for e in (*train, *validation, *test))
    return Task(
        name, train, validation, test, parse, longest + _MARGIN, answers, left_out=tuple(left_out)
    )


def _check_characters(examples: dict[str, list[Example]]) -> None:
    for example in (example for part in examples.values() for example in part):
        try:
            f"{example.id}{example.prompt}{example.completion}".encode()
        except UnicodeEncodeError as error:
            # A JSON escape can write half of a pair, which no tokenizer accepts.
            half = error.object[error.start]
            raise DataError(
                f"expected characters in {example.id!a}, got {half!a}, "
                "half of a surrogate pair: write the character itself"
            ) from None


def _make_unique(examples: dict[str, list[Example]]) -> dict[str, list[Example]]:
    seen: dict[str, int] = {}
    return {s: [_rename(example, seen) for example in part] for s, part in examples.items()}


def _rename(example: Example, seen: dict[str, int]) -> Example:
    unique = example.id
    while unique in seen:
        seen[example.id] += 1
        unique = f"{example.id}#{seen[example.id]}"
    seen[unique] = 1
    return example if unique == example.id else dataclasses.replace(example, id=unique)


def _select_readable(
    examples: dict[str, list[Example]], parse: Parser
) -> tuple[dict[str, list[Example]], list[str]]:
    kept: dict[str, list[Example]] = {split: [] for split in examples}
    left_out = []
    for split, part in examples.items():
        for example in part:
            if example.gold and parse(example.completion) == example.gold:
                kept[split].append(example)
            else:
                left_out.append(example.id)
    return kept, left_out


def _report_left_out(name: str, left_out: Sequence[str]) -> None:
    if left_out:
        more = " ..." if len(left_out) > _NAMED else ""
        print(
            f"note: {len(left_out)} rows of {name} are left out: their answers cannot be read "
            f"({', '.join(left_out[:_NAMED])}{more})",
            file=sys.stderr,
        )


def _complete_splits(
    name: str, kept: dict[str, list[Example]], seed: int, *, closed: bool
) -> tuple[tuple[Example, ...], ...]:
    train, test = kept.get("train", []), kept.get("test", [])
    validation = kept.get("validation") or kept.get("dev") or []
    if not train and not test:
        raise DataError(f"expected a split named train or test in {name}, got {', '.join(kept)}")
    if not test:
        test, train = _carve(train, seed, name, closed=closed)
    if not validation and train:
        validation, train = _carve(train, seed + 1, name, closed=closed)
    return tuple(train), tuple(validation), tuple(test)


def _carve(
    train: list[Example], seed: int, name: str, *, closed: bool
) -> tuple[list[Example], list[Example]]:
    """Return (a tenth, the rest); with a closed set of answers, a tenth of each answer.

    Examples with the same prompt stay together, or a model would be tested on its training data.
    """
    golds = {example.prompt: example.gold if closed else "" for example in train}
    labels = np.unique(list(golds.values()), return_inverse=True)[1].astype(np.int64)
    rows, _ = split_stratified(labels, _SHARE, seed)
    if not rows.size:  # every answer occurs only once
        rows, _ = split_stratified(np.zeros_like(labels), _SHARE, seed)
    if not rows.size:
        raise DataError(
            f"expected at least two different prompts in train of {name} to carve a split out of, "
            f"got {len(golds)}: add rows or a split"
        )
    prompts = list(golds)
    chosen = {prompts[row] for row in rows}
    return (
        [example for example in train if example.prompt in chosen],
        [example for example in train if example.prompt not in chosen],
    )
