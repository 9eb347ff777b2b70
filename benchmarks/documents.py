"""Results as a JSON file and as a page, and the check that both follow from the samples."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.errors import CheckError
from edge_runtime import reading
from edge_runtime.files import write_atomically

FINDINGS: Final = "findings"
_TOLERANCE: Final = 1e-9


@dataclass(frozen=True, kw_only=True)
class Document:
    """One JSON file of results, and the page rendered from it.

    Attributes:
        file: The JSON file.
        content: Content of the file.
        expected: Part of the content that follows from the samples. Its sentences, under
            `FINDINGS`, follow from the figures in `content`: sentences round.
        page: The page that people read.
        render: Function that renders the page from the content.
        indent: Indentation of the file.
    """

    file: Path
    content: Mapping[str, Any]
    expected: Mapping[str, Any]
    page: Path
    render: Callable[[Mapping[str, Any]], str]
    indent: int = 2

    def check(self) -> int:
        """Compare file and page with what is expected; return the number of figures.

        Raises:
            CheckError: A figure, a sentence or the page differs.
        """
        compared = compare(self.expected, self.content, str(self.file))
        shown = self.page.read_text(encoding="utf-8") if self.page.is_file() else ""
        if shown != self.render(self.content):
            raise CheckError(
                f"{self.page} does not show the content of {self.file.name}: run `python -m "
                f"benchmarks report {self.page.parent}`"
            )
        return compared

    def renew(self) -> None:
        """Write the sentences and the page anew, and keep every figure.

        Raises:
            CheckError: A figure differs from what is expected.
        """
        figures = {name: value for name, value in self.expected.items() if name != FINDINGS}
        compare(figures, self.content, str(self.file))
        content = {**self.content, FINDINGS: self.expected[FINDINGS]}
        write_json(self.file, content, indent=self.indent)
        write_atomically(self.page, self.render(content))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of results.

    Raises:
        CheckError: It is missing or damaged.
    """
    try:
        content = reading.read_json(path)
    except (OSError, ValueError) as error:
        raise CheckError(f"expected {path.name} in {path.parent}: {error}") from None
    if not isinstance(content, dict):
        raise CheckError(f"expected a JSON object in {path}, got {type(content).__name__}")
    return content


def write_json(path: Path, content: Any, *, indent: int = 2) -> None:
    """Write JSON in one step, so that a kill leaves the old file or the new one."""
    write_atomically(path, json.dumps(content, indent=indent) + "\n")


def compare(expected: Any, stored: Any, where: str) -> int:
    """Return the number of expected numbers, each of which is stored to rounding.

    Args:
        expected: Numbers and texts, in dictionaries and lists.
        stored: Content of a file, which may hold more than is expected.
        where: Place of both, for messages.

    Raises:
        CheckError: A number or a text differs or is missing.
    """
    if isinstance(expected, Mapping) and isinstance(stored, Mapping):
        return sum(compare(expected[k], stored.get(k), f"{where}: {k}") for k in expected)
    if isinstance(expected, list | tuple) and isinstance(stored, list | tuple):
        if len(expected) == len(stored):
            pairs = enumerate(zip(expected, stored, strict=True))
            return sum(compare(one, other, f"{where}: {i}") for i, (one, other) in pairs)
    elif is_number(expected) and is_number(stored):
        both_nan = math.isnan(expected) and math.isnan(stored)
        if both_nan or expected == stored or abs(expected - stored) <= _TOLERANCE:
            return 1
    elif expected == stored and type(expected) is type(stored):
        return 0
    raise CheckError(f"{where}: the samples give {expected!r}, the file says {stored!r}")


def is_number(value: object) -> bool:
    """Return whether a value counts as a figure; a flag does not, nor what no float can hold."""
    is_whole = type(value) is int and abs(value) <= sys.float_info.max
    return is_whole or isinstance(value, float)
