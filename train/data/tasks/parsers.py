"""Reads the answer out of a generated text: a letter, the final number, a label, or all of it."""

from __future__ import annotations

import re
from collections.abc import Callable
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
_SPOKEN_LETTER: Final = re.compile(r"answer(?: is|:)\s*\(?([A-Za-z])(?![\w'])", re.IGNORECASE)
_LONE_LETTER: Final = re.compile(r"[\s(\[*\"']*([A-Za-z])(?=[).:,;\]*\"']|\s*(?:\n|$))")
_LETTER_AND_TEXT: Final = re.compile(r"[\s(]*([B-Z])\s")


def letter_parser(letters: tuple[str, ...]) -> Parser:
    """Return a parser of the letter of a choice.

    It takes "B", "b", "(B)", "B. food", "B food" and "the answer is B". A text that opens with
    "A " and a word is an article, and no answer.

    Args:
        letters: The capital letters there are.
    """

    def parse(text: str) -> str | None:
        said = _before_next_question(text)
        found = (
            _LONE_LETTER.match(said) or _LETTER_AND_TEXT.match(said) or _SPOKEN_LETTER.search(said)
        )
        letter = found.group(1).upper() if found else None
        return letter if letter in letters else None

    return parse


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


def label_parser(labels: tuple[str, ...]) -> Parser:
    """Return a parser of one of `labels`, which are in the form of `label_words`.

    The first line that says something counts; case, white space and underscores do not.
    """
    known = frozenset(labels)

    def parse(text: str) -> str | None:
        first = next((line for line in text.splitlines() if line.strip()), "")
        label = label_words(first)
        return label if label in known else None

    return parse


def label_words(name: str) -> str:
    """Return the name of a class as lower-case words: "Card_arrival" gives "card arrival"."""
    return " ".join(name.lower().replace("_", " ").split())


def parse_text(text: str) -> str | None:
    """Return a whole text with its white space evened out; None where nothing is left."""
    return " ".join(text.split()) or None


def _before_next_question(text: str) -> str:
    return _NEXT_QUESTION.split(text, maxsplit=1)[0]
