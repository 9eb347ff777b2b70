"""Tasks with a number as the answer: GSM8K and SVAMP.

GSM8K is school arithmetic with worked solutions (Cobbe et al. 2021). SVAMP is short arithmetic to
test on; its training data are MAWPS and ASDiv-A (Patel et al. 2021).
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from train.data.tasks.parsers import NUMBER_MARK, canonical_number, parse_number
from train.data.tasks.rows import Row, SplitRows, read_rows
from train.data.tasks.sources import Source
from train.data.tasks.task import Example, Task, assemble, convert_rows
from train.errors import DataError

GSM8K_SOURCES: Final = {"gsm8k": Source("gsm8k", "openai/gsm8k", "main")}
_CALCULATOR: Final = re.compile(r"<<[^<>]*>>")

SVAMP_SOURCES: Final = {"svamp": Source("svamp", "ChilleD/SVAMP")}
_TEST: Final = "SVAMP.json"
_TRAIN: Final = ("mawps-asdiv-a_train.parquet", "mawps-asdiv-a_train.csv")
_MASK: Final = re.compile(r"number([0-9]+)")
_LOOSE: Final = re.compile(r"\s+(?=[.,?!;:%]|'s\b|n't\b)")
# MAWPS and ASDiv-A hold fractions as floats: 1/6 is 0.16666666666666666.
_PLACES: Final = Decimal("0.0001")
_LARGEST: Final = 40  # digits; Decimal would write all the digits of 1e999999


def load_gsm8k(name: str, data: str | None, seed: int) -> Task:
    """Return GSM8K; a completion is the solution without its calculator annotations.

    Raises:
        DataError: The data are missing or damaged.
    """
    examples = convert_rows(GSM8K_SOURCES[name].read(data), _gsm8k_example)
    return assemble(name, examples, parse_number, seed=seed)


def _gsm8k_example(row: Row, number: str) -> Example:
    solution = _CALCULATOR.sub("", row.text("answer"))
    # Without the mark the last number may be any number of the solution, not its answer.
    gold = parse_number(solution) if NUMBER_MARK in solution else None
    return Example(number, f"Question: {row.text('question')}\nAnswer:", f" {solution}", gold or "")


def load_svamp(name: str, data: str | None, seed: int) -> Task:
    """Return SVAMP; a completion is the final number.

    The original release masks the numbers of its training data (number0 ...); they are put back.

    Raises:
        DataError: The data are missing or damaged.
    """
    examples = convert_rows(SVAMP_SOURCES[name].read(data, _original_rows), _svamp_example)
    return assemble(name, examples, parse_number, seed=seed)


def _original_rows(place: Path) -> SplitRows | None:
    """Return the rows of the original files; their dev set is SVAMP itself and is not read."""
    if place.name == _TEST:
        return {"test": read_rows(place)}
    if not (place / _TEST).is_file():
        return None
    train = next((place / name for name in _TRAIN if (place / name).is_file()), None)
    rows = {"train": read_rows(train)} if train else {}
    return {**rows, "test": read_rows(place / _TEST)}


def _svamp_example(row: Row, number: str) -> Example:
    gold = _number(row.get("Answer"))
    question = _unmask(row) if "Numbers" in row.values else _body_and_question(row)
    identifier = str(row.values.get("ID") or number)
    return Example(identifier, f"Question: {question}\nAnswer:", f" {gold or '?'}", gold or "")


def _body_and_question(row: Row) -> str:
    body = f"{row.text('Body')} " if row.values.get("Body") else ""
    return body + row.text("Question")


def _unmask(row: Row) -> str:
    numbers = [_number(part) for part in str(row.get("Numbers")).split()]

    def put_back(mask: re.Match[str]) -> str:
        place = int(mask.group(1))
        if place >= len(numbers) or numbers[place] is None:
            raise DataError(
                f"expected a number for {mask.group()} in {row.where}, got {row.get('Numbers')!r}"
            )
        return str(numbers[place])

    # The training data have spaces around punctuation; the test set does not.
    return _MASK.sub(put_back, _LOOSE.sub("", row.text("Question")))


def _number(value: Any) -> str | None:
    """Return a number of the data in canonical form, to four decimal places; None if it is none."""
    try:
        number = Decimal(str(value).replace(",", ""))
        if not number.is_finite() or abs(number.adjusted()) > _LARGEST:
            return None
        rounded = number if number == number.to_integral_value() else number.quantize(_PLACES)
    except InvalidOperation:
        return None
    return canonical_number(f"{rounded:f}")
