"""Tasks of questions with lettered choices: ARC and MMLU.

ARC, easy and challenge, is school science with three to five choices (Clark et al. 2018). MMLU has
four choices on 57 subjects, and each prompt opens with examples of the same subject (Hendrycks et
al. 2021).
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from train.data.records import csv_records
from train.data.tasks.parsers import LetterParser
from train.data.tasks.rows import Row, SplitRows
from train.data.tasks.sources import Source
from train.data.tasks.task import Example, Task, assemble, convert_rows
from train.errors import DataError

_LETTERS = string.ascii_uppercase
_ARC_HUB: Final = "allenai/ai2_arc"
ARC_SOURCES: Final = {
    "arc-easy": Source("arc", _ARC_HUB, "ARC-Easy", "ARC-Easy-"),
    "arc-challenge": Source("arc", _ARC_HUB, "ARC-Challenge", "ARC-Challenge-"),
}
_ARC_LETTERS: Final = tuple(_LETTERS[:5])

MMLU_SOURCES: Final = {"mmlu": Source("mmlu", "cais/mmlu", "all")}
MMLU_SHOTS: Final = 5
_MMLU_LETTERS: Final = tuple(_LETTERS[:4])
_COLUMNS: Final = 6
# The original release also has "auxiliary_train". It comes from other data sets and names no
# subjects, so there are no examples to open its prompts with.
_ORIGINAL: Final = {"dev": "dev", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with its choices.

    Attributes:
        question: Its text.
        choices: The texts of the choices; the first is A.
        letter: The letter of the right choice.
    """

    question: str
    choices: tuple[str, ...]
    letter: str

    def prompt(self) -> str:
        """Return the question, one line per choice, and the cue of the answer."""
        lines = [f"{letter}. {text}" for letter, text in zip(_LETTERS, self.choices, strict=False)]
        return "\n".join([f"Question: {self.question}", *lines, "Answer:"])

    def completion(self) -> str:
        """Return the right letter with a space before it."""
        return f" {self.letter}"


def choice_texts(values: Any, where: str, most: int) -> tuple[str, ...]:
    """Return the texts of two or more choices.

    Raises:
        DataError: There are too few or too many, or one is empty or not a text.
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or not 2 <= len(values) <= most:  # noqa: PLR2004 - a single choice is no choice
        raise DataError(f"expected 2 to {most} choices in {where}, got {values!r:.60}")
    if not all(isinstance(value, str) and value.strip() for value in values):
        raise DataError(f"expected a text in every choice in {where}, got {values!r:.60}")
    return tuple(value.strip() for value in values)


def letter_of(answer: Any, labels: Sequence[str], where: str) -> str:
    """Return the letter of the choice with the label `answer`.

    Raises:
        DataError: No choice has that label.
    """
    if answer not in labels:
        raise DataError(
            f"expected an answer among {', '.join(labels)} in {where}, got {answer!r:.40}"
        )
    return _LETTERS[list(labels).index(answer)]


def labelled_choices(row: Row) -> tuple[list[Any], list[str]]:
    """Return (texts, labels) of the choices of an ARC row, in either of its two layouts.

    Raises:
        DataError: They follow neither layout.
    """
    question = row.values.get("question")
    choices: Any = (question if isinstance(question, dict) else row).get("choices")
    try:
        if isinstance(choices, dict):
            return list(choices["text"]), [str(label) for label in choices["label"]]
        return [one["text"] for one in choices], [str(one["label"]) for one in choices]
    except (KeyError, TypeError):
        raise DataError(
            f"expected choices with text and label in {row.where}, got {choices!r:.60}"
        ) from None


def load_arc(name: str, data: str | None, seed: int) -> Task:
    """Return one of the two ARC tasks; choices labelled 1 to 5 get letters by position.

    Raises:
        DataError: The data are missing or damaged.
    """
    examples = convert_rows(ARC_SOURCES[name].read(data), _arc_example)
    parser = LetterParser(_ARC_LETTERS)
    return assemble(name, examples, parser, seed=seed, answers=_ARC_LETTERS)


def _arc_example(row: Row, number: str) -> Example:
    texts, labels = labelled_choices(row)
    if len(set(labels)) < len(labels) or len(labels) != len(texts):
        raise DataError(f"expected a label of its own for each choice in {row.where}, got {labels}")
    choices = choice_texts(texts, row.where, len(_ARC_LETTERS))
    letter = letter_of(row.text("answerKey"), labels, row.where)
    content = row.get("question")
    original = isinstance(content, dict)
    stem = Row(content, row.where).text("stem") if original else row.text("question")
    question, identifier = ChoiceQuestion(stem, choices, letter), row.values.get("id") or number
    return Example(str(identifier), question.prompt(), question.completion(), letter)


@dataclass(frozen=True)
class _SubjectQuestion:
    subject: str
    question: ChoiceQuestion
    where: str


def load_mmlu(name: str, data: str | None, seed: int, shots: int) -> Task:
    """Return MMLU, without a training split, and with a validation split if the data have one.

    Args:
        name: `mmlu`.
        data: Folder, file or Hugging Face name of the data; None for the task's own.
        seed: Seed of splits that are carved out; unused as long as none is.
        shots: Number of answered questions from `dev` that each prompt opens with.

    Raises:
        DataError: The data are missing or damaged, or a subject has too few examples in `dev`.
    """
    rows = MMLU_SOURCES[name].read(data, _original_rows)
    asked = {split: [_subject_question(row) for row in rows.get(split, ())] for split in _ORIGINAL}
    openings = _Openings(asked.pop("dev"), shots)
    examples = {split: list(_mmlu_examples(part, openings, split)) for split, part in asked.items()}
    return assemble(name, examples, LetterParser(_MMLU_LETTERS), seed=seed, answers=_MMLU_LETTERS)


class _Openings:
    """The answered questions that stand before a question, by subject."""

    def __init__(self, dev: Iterable[_SubjectQuestion], shots: int) -> None:
        self._shots = shots
        self._dev: dict[str, list[ChoiceQuestion]] = {}
        for asked in dev:
            self._dev.setdefault(asked.subject, []).append(asked.question)

    def of(self, asked: _SubjectQuestion) -> str:
        known = self._dev.get(asked.subject, [])
        if len(known) < self._shots:
            raise DataError(
                f"expected {self._shots} questions of {asked.subject} in dev to go before "
                f"{asked.where}, got {len(known)}: use fewer shots, or data with more"
            )
        subject = " ".join(asked.subject.replace("_", " ").split())
        header = f"Multiple-choice questions about {subject}, each answered by one letter."
        shown = [f"{shot.prompt()}{shot.completion()}" for shot in known[: self._shots]]
        return "\n\n".join([header, *shown])


def _mmlu_examples(
    questions: Iterable[_SubjectQuestion], openings: _Openings, split: str
) -> Iterable[Example]:
    numbers: dict[str, int] = {}
    for asked in questions:
        # Numbered by subject, so that both layouts give a question the same id.
        number = numbers.setdefault(asked.subject, 0)
        numbers[asked.subject] += 1
        yield Example(
            f"{asked.subject}/{split}-{number}",
            f"{openings.of(asked)}\n\n{asked.question.prompt()}",
            asked.question.completion(),
            asked.question.letter,
        )


def _subject_question(row: Row) -> _SubjectQuestion:
    texts = choice_texts(row.get("choices"), row.where, len(_MMLU_LETTERS))
    letter = _mmlu_letter(row.get("answer"), len(texts), row.where)
    question = ChoiceQuestion(row.text("question"), texts, letter)
    return _SubjectQuestion(row.text("subject"), question, row.where)


def _mmlu_letter(answer: Any, count: int, where: str) -> str:
    if isinstance(answer, int):
        if not 0 <= answer < count:
            raise DataError(f"expected an answer from 0 to {count - 1} in {where}, got {answer}")
        return _MMLU_LETTERS[answer]
    return letter_of(answer, _MMLU_LETTERS[:count], where)


def _original_rows(place: Path) -> SplitRows | None:
    """Return the rows of the original release, which has a csv file per subject and split."""
    folder = next((f for f in (place, place / "data") if any(f.glob("test/[!.]*_test.csv"))), None)
    if folder is None:
        return None
    return {
        split: [
            row
            for path in sorted((folder / name).glob(f"[!.]*_{name}.csv"))
            for row in _subject_rows(path, path.name.removesuffix(f"_{name}.csv"))
        ]
        for split, name in _ORIGINAL.items()
    }


def _subject_rows(path: Path, subject: str) -> Iterable[Row]:
    for record, where in csv_records(path):
        if len(record) != _COLUMNS:
            raise DataError(
                f"expected question, four choices and a letter in {where}, got {len(record)} "
                "columns"
            )
        question, *choices, answer = record
        values = {"question": question, "choices": choices, "answer": answer, "subject": subject}
        yield Row(values, where)
