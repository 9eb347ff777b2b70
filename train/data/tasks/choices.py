"""Questions with lettered choices: how they are read and written."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from train.data.tasks.rows import Row
from train.errors import DataError


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


_LETTERS = string.ascii_uppercase
