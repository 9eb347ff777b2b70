"""MMLU: four choices on 57 subjects, after examples of the same subject (Hendrycks et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from train.data.tasks.assembly import assemble
from train.data.tasks.choices import ChoiceQuestion, choice_texts, letter_of, letters
from train.data.tasks.parsers import LetterParser
from train.data.tasks.rows import Row, csv_lines
from train.data.tasks.sources import Found, Source
from train.data.tasks.task import Example, Task
from train.errors import DataError

MMLU_SOURCES: Final = {"mmlu": Source("mmlu", "cais/mmlu", "all")}
MMLU_SHOTS: Final = 5
_MMLU_LETTERS: Final = letters(4)
_COLUMNS: Final = 6
# The test and dev of the original release; its "auxiliary_train" comes from other data sets and
# names no subjects, so that it has no examples to go before.
_ORIGINAL: Final = {"dev": "dev", "validation": "val", "test": "test"}


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
