"""ARC, easy and challenge: school science with three to five choices (Clark et al. 2018)."""

from __future__ import annotations

from typing import Final

from train.data.tasks.assembly import assemble
from train.data.tasks.choices import (
    ChoiceQuestion,
    choice_texts,
    labelled_choices,
    letter_of,
    letters,
)
from train.data.tasks.parsers import LetterParser
from train.data.tasks.rows import Row
from train.data.tasks.sources import Source
from train.data.tasks.task import Example, Task
from train.errors import DataError

_HUB: Final = "allenai/ai2_arc"
SOURCES: Final = {
    "arc-easy": Source("arc", _HUB, "ARC-Easy", "ARC-Easy-"),
    "arc-challenge": Source("arc", _HUB, "ARC-Challenge", "ARC-Challenge-"),
}
_MOST: Final = 5


def load(name: str, data: str | None, seed: int) -> Task:
    """Return one of the two tasks; what is labelled 1 to 5 is lettered, by position.

    Raises:
        DataError: The data are missing or damaged.
    """
    found = SOURCES[name].rows(SOURCES[name].place(data))
    examples = {
        split: [_example(row, f"{split}-{i}") for i, row in enumerate(rows)]
        for split, rows in found.items()
    }
    answers = letters(_MOST)
    return assemble(name, examples, LetterParser(answers), seed=seed, answers=answers)


def _example(row: Row, number: str) -> Example:
    texts, labels = labelled_choices(row)
    if len(set(labels)) < len(labels) or len(labels) != len(texts):
        raise DataError(f"expected a label of its own for each choice in {row.where}, got {labels}")
    choices = choice_texts(texts, row.where, _MOST)
    letter = letter_of(row.text("answerKey"), labels, row.where)
    asked = ChoiceQuestion(_stem(row), choices, letter)
    return Example(str(row.values.get("id") or number), asked.prompt(), asked.completion(), letter)


def _stem(row: Row) -> str:
    question = row.get("question")
    return (Row(question, row.where) if isinstance(question, dict) else row).text(
        "stem" if isinstance(question, dict) else "question"
    )
