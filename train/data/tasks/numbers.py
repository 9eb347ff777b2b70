"""GSM8K: school arithmetic with worked solutions (Cobbe et al. 2021)."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from train.data.tasks.parsers import canonical_number, parse_number
from train.data.tasks.rows import Row, read_rows
from train.data.tasks.sources import Found, Source
from train.data.tasks.task import Example, Task, assemble
from train.errors import DataError

# MERGEDOC train/data/tasks/svamp.py: 'SVAMP: short arithmetic to test on, trained on MAWPS and ASDiv-A (Patel et al. 2021).'

GSM8K_SOURCES: Final = {"gsm8k": Source("gsm8k", "openai/gsm8k", "main")}
_CALCULATOR: Final = re.compile(r"<<[^<>]*>>")
_MARK: Final = "####"

SVAMP_SOURCES: Final = {"svamp": Source("svamp", "ChilleD/SVAMP")}
_TEST: Final = "SVAMP.json"
_TRAIN: Final = ("mawps-asdiv-a_train.parquet", "mawps-asdiv-a_train.csv")
_MASK: Final = re.compile(r"number([0-9]+)")
_LOOSE: Final = re.compile(r"\s+(?=[.,?!;:%]|'s\b|n't\b)")
# The fractions of MAWPS and ASDiv-A stand there as floats: 1/6 is 0.16666666666666666.
_PLACES: Final = Decimal("0.0001")
_LARGEST: Final = 40  # digits; Decimal would write 1e999999 out


def load_gsm8k(name: str, data: str | None, seed: int) -> Task:
    """Return the task; a completion is the solution without the notes for a calculator.

    Raises:
        DataError: The data are missing or damaged.
    """
    found = GSM8K_SOURCES[name].rows(GSM8K_SOURCES[name].place(data))
    examples = {
        split: [_gsm8k_example(row, f"{split}-{i}") for i, row in enumerate(rows)]
        for split, rows in found.items()
    }
    return assemble(name, examples, parse_number, seed=seed)


def _gsm8k_example(row: Row, number: str) -> Example:
    solution = _CALCULATOR.sub("", row.text("answer"))
    # Without the mark the last number may be any of the solution's: that is no answer.
    gold = parse_number(solution) if _MARK in solution else None
    return Example(number, f"Question: {row.text('question')}\nAnswer:", f" {solution}", gold or "")


def load_svamp(name: str, data: str | None, seed: int) -> Task:
    """Return the task; a completion is the final number.

    The original release masks the numbers of what is trained on (number0 ...): they are put back.

    Raises:
        DataError: The data are missing or damaged.
    """
    source = SVAMP_SOURCES[name]
    place = source.place(data)
    found = _original_rows(place) if isinstance(place, Path) else None
    examples = {
        split: [_svamp_example(row, f"{split}-{i}") for i, row in enumerate(rows)]
        for split, rows in (found or source.rows(place)).items()
    }
    return assemble(name, examples, parse_number, seed=seed)


def _original_rows(place: Path) -> Found | None:
    """Return the original files' rows; their dev set is SVAMP itself and is not read."""
    if place.name == _TEST:
        return {"test": read_rows(place)}
    if not (place / _TEST).is_file():
        return None
    train = next((place / name for name in _TRAIN if (place / name).is_file()), None)
    found = {"train": read_rows(train)} if train else {}
    return {**found, "test": read_rows(place / _TEST)}


def _svamp_example(row: Row, number: str) -> Example:
    gold = _number(row.get("Answer"))
    asked = _unmasked(row) if "Numbers" in row.values else _body_and_question(row)
    identifier = str(row.values.get("ID") or number)
    return Example(identifier, f"Question: {asked}\nAnswer:", f" {gold or '?'}", gold or "")


def _body_and_question(row: Row) -> str:
    body = f"{row.text('Body')} " if row.values.get("Body") else ""
    return body + row.text("Question")


def _unmasked(row: Row) -> str:
    numbers = [_number(part) for part in str(row.get("Numbers")).split()]

    def put_back(mask: re.Match[str]) -> str:
        place = int(mask.group(1))
        if place >= len(numbers) or numbers[place] is None:
            raise DataError(
                f"expected a number for {mask.group()} in {row.where}, got {row.get('Numbers')!r}"
            )
        return str(numbers[place])

    # It is written in words with spaces around; the test set is not.
    return _MASK.sub(put_back, _LOOSE.sub("", row.text("Question")))


def _number(value: Any) -> str | None:
    """Return a number of the data in canonical form, to four places."""
    try:
        number = Decimal(str(value).replace(",", ""))
        if not number.is_finite() or abs(number.adjusted()) > _LARGEST:
            return None
        rounded = number if number == number.to_integral_value() else number.quantize(_PLACES)
    except InvalidOperation:
        return None
    return canonical_number(f"{rounded:f}")
