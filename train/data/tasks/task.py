"""A task of a language model: prompts, right answers, and how an answer is read from a text."""

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
from train.errors import DataError

_SHARE: Final = 0.1
_MARGIN: Final = 8  # EOS, and a space that a tokenizer may add
_NAMED: Final = 5

# MERGEDOC train/data/tasks/assembly.py: 'Makes a task of converted rows: ids, splits that are missing, and what is left out.'


@dataclass(frozen=True)
class Example:
    """One question with its right answer.

    Attributes:
        id: A stable name.
        prompt: All that stands before the answer; no trailing space.
        completion: What a model is taught to say, with its leading space, without EOS.
        gold: The right answer in the parser's form.
    """

    id: str
    prompt: str
    completion: str
    gold: str


@dataclass(frozen=True)
class Task:
    """Examples of one kind, and how their answers are read.

    Attributes:
        name: What it was loaded by.
        train: May be empty: some published tasks have no training split.
        validation: Carved out of train where the data have none; empty where train is.
        test: What is measured on.
        parse: Makes of a generated text the answer in its canonical form; None where there is none.
        max_new_tokens: Enough for every right completion, even at a token a byte.
        answers: The closed set of answers in the parser's form, where there is one.
        left_out: Ids of what the data hold and no parser reads: it is in none of the splits.
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
        """Tell whether a generated text gives the right answer."""
        return self.parse(text) == example.gold

    def fingerprint(self) -> str:
        """Return a sha256 over ids, prompts and completions of all splits."""
        digest = hashlib.sha256()
        for split, examples in self.splits().items():
            digest.update(f"{split} {len(examples)}\n".encode())
            for example in examples:
                for part in (example.id, example.prompt, example.completion):
                    content = part.encode()
                    # The length keeps two neighbours from being read as another pair.
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


def assemble(
    name: str,
    examples: dict[str, list[Example]],
    parse: Parser,
    *,
    seed: int,
    answers: tuple[str, ...] = (),
) -> Task:
    """Return a task.

    An example is left out where its completion does not give its gold answer, which is "" where
    the data hold none that is one; a note on standard error counts and names them.

    Args:
        name: Of the task.
        examples: Split -> examples; what `validation` or `test` lack is carved out of `train`.
        parse: Its parser.
        seed: Of what is carved out.
        answers: The closed set of answers, where there is one.

    Raises:
        DataError: Nothing is left, or a split is missing that cannot be carved out.
    """
    _check_characters(examples)
    named = _unique(examples)
    kept, left_out = _readable(named, parse)
    if not any(kept.values()):
        raise DataError(
            f"expected answers that can be read in {name}, none of {len(left_out)} is "
            f"({', '.join(left_out[:_NAMED])} ...): check what the answers are"
        )
    _note(name, left_out)
    train, validation, test = _splits(name, kept, seed, closed=bool(answers))
    everything = (*train, *validation, *test)
    longest = max(len(example.completion.encode()) for example in everything)
    return Task(
        name, train, validation, test, parse, longest + _MARGIN, answers, left_out=tuple(left_out)
    )


def _check_characters(examples: dict[str, list[Example]]) -> None:
    for example in (example for part in examples.values() for example in part):
        try:
            f"{example.id}{example.prompt}{example.completion}".encode()
        except UnicodeEncodeError as error:
            # A json escape can write half of a pair, which no tokenizer takes.
            half = error.object[error.start]
            raise DataError(
                f"expected characters in {example.id!a}, got {half!a}, "
                "half of a surrogate pair: write the character itself"
            ) from None


def _unique(examples: dict[str, list[Example]]) -> dict[str, list[Example]]:
    seen: dict[str, int] = {}
    return {s: [_renamed(example, seen) for example in part] for s, part in examples.items()}


def _renamed(example: Example, seen: dict[str, int]) -> Example:
    unique = example.id
    while unique in seen:
        seen[example.id] += 1
        unique = f"{example.id}#{seen[example.id]}"
    seen[unique] = 1
    return example if unique == example.id else dataclasses.replace(example, id=unique)


def _readable(
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


def _note(name: str, left_out: Sequence[str]) -> None:
    if left_out:
        more = " ..." if len(left_out) > _NAMED else ""
        print(
            f"note: {len(left_out)} rows of {name} are left out, their answers cannot be read: "
            f"{', '.join(left_out[:_NAMED])}{more}",
            file=sys.stderr,
        )


def _splits(
    name: str, kept: dict[str, list[Example]], seed: int, *, closed: bool
) -> tuple[tuple[Example, ...], ...]:
    train, test = kept.get("train", []), kept.get("test", [])
    validation = kept.get("validation") or kept.get("dev") or []
    if not train and not test:
        raise DataError(f"expected a split named train or test in {name}, got {', '.join(kept)}")
    if not test:
        test, train = _carved(train, seed, name, closed=closed)
    if not validation and train:
        validation, train = _carved(train, seed + 1, name, closed=closed)
    return tuple(train), tuple(validation), tuple(test)


def _carved(
    train: list[Example], seed: int, name: str, *, closed: bool
) -> tuple[list[Example], list[Example]]:
    """Return (a tenth, the rest); of a closed set a tenth of each answer.

    Examples with the same prompt stay together, or a model would be judged on what it was taught.
    """
    golds = {example.prompt: example.gold if closed else "" for example in train}
    labels = np.unique(list(golds.values()), return_inverse=True)[1].astype(np.int64)
    rows, _ = split_stratified(labels, _SHARE, seed)
    if not rows.size:  # every answer stands there once
        rows, _ = split_stratified(np.zeros_like(labels), _SHARE, seed)
    if not rows.size:
        raise DataError(
            f"expected at least two different prompts in train of {name} to carve a split out of "
            f"them, got {len(golds)}: add rows or a split"
        )
    prompts = list(golds)
    chosen = {prompts[row] for row in rows}
    return (
        [example for example in train if example.prompt in chosen],
        [example for example in train if example.prompt not in chosen],
    )
