"""GSM8K: school arithmetic with worked solutions (Cobbe et al. 2021)."""

from __future__ import annotations

import re
from typing import Final

from train.data.tasks.assembly import assemble
from train.data.tasks.parsers import parse_number
from train.data.tasks.rows import Row
from train.data.tasks.sources import Source
from train.data.tasks.task import Example, Task

GSM8K_SOURCES: Final = {"gsm8k": Source("gsm8k", "openai/gsm8k", "main")}
_CALCULATOR: Final = re.compile(r"<<[^<>]*>>")
_MARK: Final = "####"


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
