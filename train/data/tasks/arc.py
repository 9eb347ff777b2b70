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

_ARC_HUB: Final = "allenai/ai2_arc"
ARC_SOURCES: Final = {
    "arc-easy": Source("arc", _ARC_HUB, "ARC-Easy", "ARC-Easy-"),
    "arc-challenge": Source("arc", _ARC_HUB, "ARC-Challenge", "ARC-Challenge-"),
}
_MOST_CHOICES: Final = 5


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
