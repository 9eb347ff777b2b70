"""Questions with lettered choices: how they are read and written."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from train.data.tasks.parsers import LetterParser
from train.data.tasks.rows import Row, csv_lines
from train.data.tasks.sources import Found, Source
from train.data.tasks.task import Example, Task, assemble
from train.errors import DataError

_LETTERS = string.ascii_uppercase
_ARC_HUB: Final = "allenai/ai2_arc"
ARC_SOURCES: Final = {
    "arc-easy": Source("arc", _ARC_HUB, "ARC-Easy", "ARC-Easy-"),
    "arc-challenge": Source("arc", _ARC_HUB, "ARC-Challenge", "ARC-Challenge-"),
}
_MOST_CHOICES: Final = 5
MMLU_SOURCES: Final = {"mmlu": Source("mmlu", "cais/mmlu", "all")}
MMLU_SHOTS: Final = 5
_COLUMNS: Final = 6
# The test and dev of the original release; its "auxiliary_train" comes from other data sets and
# names no subjects, so that it has no examples to go before.
_ORIGINAL: Final = {"dev": "dev", "validation": "val", "test": "test"}

# MERGEDOC train/data/tasks/arc.py: 'ARC, easy and challenge: school science with three to five choices (Clark et al. 2018).'
# MERGEDOC train/data/tasks/mmlu.py: 'MMLU: four choices on 57 subjects, after examples of the same subject (Hendrycks et al. 2021).'


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with its choices.

    Attributes:
        question: Its text.
        choices: The texts of the choices; the first is A.
        letter: Of the right one.
    """

    question: str
    choices: tuple[str, ...]
    letter: str

    def prompt(self) -> str:
        """Return the question, a line a choice, and the cue of the answer."""
        lines = [f"{letter}. {text}" for letter, text in zip(_LETTERS, self.choices, strict=False)]
        return "\n".join([f"Question: {self.question}", *lines, "Answer:"])

    def completion(self) -> str:
        """Return the right letter behind its space."""
        return f" {self.letter}"


def letters(count: int) -> tuple[str, ...]:
    """Return the first capital letters."""
    return tuple(_LETTERS[:count])


def choice_texts(values: Any, where: str, most: int) -> tuple[str, ...]:
    """Return the texts of choices, of which there are two or more.

    Raises:
        DataError: There are too few or too many, or one is no text.
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or not 2 <= len(values) <= most:  # noqa: PLR2004 - one choice is none
        raise DataError(f"expected 2 to {most} choices in {where}, got {values!r:.60}")
    if not all(isinstance(value, str) and value.strip() for value in values):
        raise DataError(f"expected a text in every choice in {where}, got {values!r:.60}")
    return tuple(value.strip() for value in values)


def letter_of(answer: Any, labels: Sequence[str], where: str) -> str:
    """Return the letter of the choice whose label is `answer`.

    Raises:
        DataError: None has that label.
    """
    if answer not in labels:
        raise DataError(
            f"expected an answer among {', '.join(labels)} in {where}, got {answer!r:.40}"
        )
    return _LETTERS[list(labels).index(answer)]


def labelled_choices(row: Row) -> tuple[list[Any], list[str]]:
    """Return (texts, labels) of the choices of an ARC row, in either of its two forms.

    Raises:
        DataError: They are in neither.
    """
    stem = row.values.get("question")
    found: Any = stem.get("choices") if isinstance(stem, dict) else row.get("choices")
    try:
        if isinstance(found, dict):
            return list(found["text"]), [str(label) for label in found["label"]]
        return [one["text"] for one in found], [str(one["label"]) for one in found]
    except (KeyError, TypeError):
        raise DataError(
            f"expected choices with text and label in {row.where}, got {found!r:.60}"
        ) from None


def load_arc(name: str, data: str | None, seed: int) -> Task:
    """Return one of the two tasks; what is labelled 1 to 5 is lettered, by position.

    Raises:
        DataError: The data are missing or damaged.
    """
    found = ARC_SOURCES[name].rows(ARC_SOURCES[name].place(data))
    examples = {
        split: [_arc_example(row, f"{split}-{i}") for i, row in enumerate(rows)]
        for split, rows in found.items()
    }
    answers = letters(_MOST_CHOICES)
    return assemble(name, examples, LetterParser(answers), seed=seed, answers=answers)


def _arc_example(row: Row, number: str) -> Example:
    texts, labels = labelled_choices(row)
    if len(set(labels)) < len(labels) or len(labels) != len(texts):
        raise DataError(f"expected a label of its own for each choice in {row.where}, got {labels}")
    choices = choice_texts(texts, row.where, _MOST_CHOICES)
    letter = letter_of(row.text("answerKey"), labels, row.where)
    asked = ChoiceQuestion(_arc_stem(row), choices, letter)
    return Example(str(row.values.get("id") or number), asked.prompt(), asked.completion(), letter)


def _arc_stem(row: Row) -> str:
    question = row.get("question")
    return (Row(question, row.where) if isinstance(question, dict) else row).text(
        "stem" if isinstance(question, dict) else "question"
    )


_MMLU_LETTERS: Final = letters(4)


@dataclass(frozen=True)
class _Asked:
    subject: str
    question: ChoiceQuestion
    where: str


def load_mmlu(name: str, data: str | None, seed: int, shots: int) -> Task:
    """Return the task; it has no training split, and a validation split where the data have.

    Args:
        name: `mmlu`.
        data: Where from.
        seed: Unused as long as nothing is carved out.
        shots: Questions with their answers from `dev` that each prompt opens with.

    Raises:
        DataError: The data are missing or damaged, or a subject has too few examples in `dev`.
    """
    place = MMLU_SOURCES[name].place(data)
    original = isinstance(place, Path) and _original_folder(place)
    found = _original_rows(original) if original else MMLU_SOURCES[name].rows(place)
    asked = {split: [_asked(row) for row in found.get(split, ())] for split in _ORIGINAL}
    openings = _Openings(asked.pop("dev"), shots)
    examples = {split: list(_mmlu_examples(rows, openings, split)) for split, rows in asked.items()}
    return assemble(name, examples, LetterParser(_MMLU_LETTERS), seed=seed, answers=_MMLU_LETTERS)


class _Openings:
    """What stands before the questions of a subject."""

    def __init__(self, dev: Iterable[_Asked], shots: int) -> None:
        self._shots = shots
        self._dev: dict[str, list[ChoiceQuestion]] = {}
        for asked in dev:
            self._dev.setdefault(asked.subject, []).append(asked.question)

    def of(self, asked: _Asked) -> str:
        known = self._dev.get(asked.subject, [])
        if len(known) < self._shots:
            raise DataError(
                f"expected {self._shots} questions of {asked.subject} in dev to go before "
                f"{asked.where}, got {len(known)}: take fewer shots, or data with more"
            )
        subject = " ".join(asked.subject.replace("_", " ").split())
        header = f"Multiple-choice questions about {subject}, each answered by one letter."
        shown = [f"{shot.prompt()}{shot.completion()}" for shot in known[: self._shots]]
        return "\n\n".join([header, *shown])


def _mmlu_examples(rows: Iterable[_Asked], openings: _Openings, split: str) -> Iterable[Example]:
    numbers: dict[str, int] = {}
    for asked in rows:
        # By subject, so that both layouts give a question the same name.
        number = numbers.setdefault(asked.subject, 0)
        numbers[asked.subject] += 1
        yield Example(
            f"{asked.subject}/{split}-{number}",
            f"{openings.of(asked)}\n\n{asked.question.prompt()}",
            asked.question.completion(),
            asked.question.letter,
        )


def _asked(row: Row) -> _Asked:
    texts = choice_texts(row.get("choices"), row.where, len(_MMLU_LETTERS))
    letter = _mmlu_letter(row.get("answer"), len(texts), row.where)
    question = ChoiceQuestion(row.text("question"), texts, letter)
    return _Asked(row.text("subject"), question, row.where)


def _mmlu_letter(answer: Any, count: int, where: str) -> str:
    if isinstance(answer, int):
        if not 0 <= answer < count:
            raise DataError(f"expected an answer from 0 to {count - 1} in {where}, got {answer}")
        return _MMLU_LETTERS[answer]
    return letter_of(answer, _MMLU_LETTERS[:count], where)


def _original_folder(folder: Path) -> Path | None:
    return next((f for f in (folder, folder / "data") if any(f.glob("test/*_test.csv"))), None)


def _original_rows(folder: Path) -> Found:
    return {
        split: [
            row
            for path in sorted((folder / name).glob(f"*_{name}.csv"))
            for row in _subject(path, path.name.removesuffix(f"_{name}.csv"))
        ]
        for split, name in _ORIGINAL.items()
    }


def _subject(path: Path, subject: str) -> Iterable[Row]:
    for record, where in csv_lines(path):
        if len(record) != _COLUMNS:
            raise DataError(
                f"expected question, four choices and a letter in {where}, got {len(record)} "
                "columns"
            )
        question, *choices, answer = record
        values = {"question": question, "choices": choices, "answer": answer, "subject": subject}
        yield Row(values, where)
