"""Parsers that read the answer in a generated text: a letter, a number, a label, or the whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Parser = Callable[[str], str | None]

# A model that never learned to stop goes on with another question of its own.
_NEXT_QUESTION: Final = re.compile(r"\n\s*Question:")
NUMBER_MARK: Final = "####"
"""Mark before the final number of a worked solution, as in GSM8K."""
_CURRENCY: Final = re.compile(r"(-?)[ ]?[$£€][ ]?(-?)")
# A minus directly after a number or a bracket is no sign, so that 48-24 ends in 24 and not -24; w2,
# 1e5 and the rest of 3.1.4 are not numbers. The group is atomic, or 1.5e3 would be read as 1.
_NUMBER: Final = re.compile(
    r"(?>(?:(?<![\w)\]])-)?"
    r"(?:(?<![\w.])\.[0-9]+"
    r"|(?<!\w)(?<![0-9]\.)(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?))"
    r"(?![eE][+-]?[0-9])"
)
# A lower-case letter counts only alone, before a mark, or at the end of a line: "a" and "d'oh" are
# words.
_ENDS: Final = r"(?=[).:,;\]*\"]|'(?!\w)|\s*(?:\n|$))"
_OPENS: Final = r"[\s(\[*\"']*"
_LONE_LETTER: Final = re.compile(rf"{_OPENS}([A-Za-z]){_ENDS}")
_LETTER_AND_TEXT: Final = re.compile(r"[\s(]*([B-Z])\s")
_SPOKEN_LETTER: Final = re.compile(
    rf"[Aa]nswer(?: is|:){_OPENS}(?:([A-Z])(?![\w'])|([a-z]){_ENDS})"
)


@dataclass(frozen=True)
class LetterParser:
    """Reads the letter of a choice.

    It accepts "B", "b", "(B)", "B. food", "B food" and "the answer is B". "A" or "a" before another
    word at the start, and "a" anywhere, is an article and not an answer.

    Attributes:
        letters: The capital letters of the choices.
    """

    letters: tuple[str, ...]

    def __call__(self, text: str) -> str | None:
        """Return the letter, or None."""
        own = _before_next_question(text)
        matches = _LONE_LETTER.match(own), _LETTER_AND_TEXT.match(own), _SPOKEN_LETTER.search(own)
        letters = [match[match.lastindex or 0].upper() for match in matches if match]
        return next((letter for letter in letters if letter in self.letters), None)


def parse_number(text: str) -> str | None:
    """Return the final number of a text in canonical form, or None for a text without a number.

    It is the first number after the last "####", or the last number of a text without that mark.
    Thousands separators, currency signs, leading and trailing zeros are dropped: "$1,080.00" gives
    "1080". Fractions and powers of ten are not evaluated.
    """
    own = _before_next_question(text)
    own = _CURRENCY.sub(r" \1\2", own.replace("\N{MINUS SIGN}", "-"))
    _, mark, tail = own.rpartition(NUMBER_MARK)
    numbers = [match.group() for match in _NUMBER.finditer(tail if mark else own)]
    if not numbers:
        return None
    return canonical_number(numbers[0] if mark else numbers[-1])


def canonical_number(digits: str) -> str:
    """Return a decimal number without separators and needless zeros; zero has no sign.

    It works on the text, because a float would lose digits and make different numbers equal.
    """
    whole, _, fraction = digits.lstrip("-").replace(",", "").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return f"-{number}" if digits.startswith("-") and number != "0" else number


@dataclass(frozen=True)
class LabelParser:
    """Reads one of a closed set of labels.

    It reads the first line that is not blank, and ignores case, white space and underscores.

    Attributes:
        labels: In the form of `label_words`.
    """

    labels: tuple[str, ...]

    def __call__(self, text: str) -> str | None:
        """Return the label, or None."""
        first = next((line for line in text.splitlines() if line.strip()), "")
        label = label_words(first)
        return label if label in self.labels else None


def label_words(name: str) -> str:
    """Return the name of a class as lower-case words: "Card_arrival" gives "card arrival"."""
    return " ".join(name.lower().replace("_", " ").split())


def parse_text(text: str) -> str | None:
    """Return a whole text with single spaces as white space, or None for a blank text."""
    return " ".join(text.split()) or None


def _before_next_question(text: str) -> str:
    return _NEXT_QUESTION.split(text, maxsplit=1)[0]
