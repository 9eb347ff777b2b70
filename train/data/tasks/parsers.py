"""Reads the answer out of a generated text: a letter, the final number, a label, or all of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Parser = Callable[[str], str | None]

# A model that was never told to stop goes on with the next question of its own making.
_NEXT_QUESTION: Final = re.compile(r"\n\s*Question:")
_MARK: Final = "####"
_CURRENCY: Final = re.compile(r"(-?)[ ]?[$£€][ ]?(-?)")
# A sign stands where no number or bracket ends, so that 48-24 holds 24 and not -24; w2, 1e5 and
# the rest of 3.1.4 are no numbers. Atomic, or 1.5e3 would be read as 1.
_NUMBER: Final = re.compile(
    r"(?>(?:(?<![\w)\]])-)?"
    r"(?:(?<![\w.])\.[0-9]+"
    r"|(?<!\w)(?<![0-9]\.)(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?))"
    r"(?![eE][+-]?[0-9])"
)
# A small letter alone, closed by a mark, or at the end of a line: "a" and "d'oh" are words.
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

    It takes "B", "b", "(B)", "B. food", "B food" and "the answer is B". "A" or "a" before another
    word at the start, and "a" anywhere, is an article and no answer.

    Attributes:
        letters: The capital letters there are.
    """

    letters: tuple[str, ...]

    def __call__(self, text: str) -> str | None:
        """Return the letter, or None."""
        said = _before_next_question(text)
        found = _LONE_LETTER.match(said), _LETTER_AND_TEXT.match(said), _SPOKEN_LETTER.search(said)
        named = [match[match.lastindex or 0].upper() for match in found if match]
        return next((letter for letter in named if letter in self.letters), None)


def parse_number(text: str) -> str | None:
    """Return the final number of a text in canonical form; None where there is none.

    It is the first one after the last "####", or the last one of a text without that mark.
    Thousands separators, currency signs, leading and trailing zeros are dropped: "$1,080.00" gives
    "1080". Fractions and powers of ten are not worked out.
    """
    said = _before_next_question(text)
    said = _CURRENCY.sub(r" \1\2", said.replace("\N{MINUS SIGN}", "-"))
    _, mark, tail = said.rpartition(_MARK)
    found = [match.group() for match in _NUMBER.finditer(tail if mark else said)]
    if not found:
        return None
    return canonical_number(found[0] if mark else found[-1])


def canonical_number(digits: str) -> str:
    """Return a decimal number without separators and needless zeros; zero has no sign.

    By text, because a float would lose digits and make two numbers equal that are not.
    """
    whole, _, fraction = digits.lstrip("-").replace(",", "").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return f"-{number}" if digits.startswith("-") and number != "0" else number


@dataclass(frozen=True)
class LabelParser:
    """Reads one of a closed set of labels.

    The first line that says something counts; case, white space and underscores do not.

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
    """Return a whole text with its white space evened out; None where nothing is left."""
    return " ".join(text.split()) or None


def _before_next_question(text: str) -> str:
    return _NEXT_QUESTION.split(text, maxsplit=1)[0]
