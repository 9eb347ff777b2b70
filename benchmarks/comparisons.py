"""Holds the results of a comparison to its per-sample file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.errors import CheckError
from benchmarks.results import compare


def require_following(
    folder: Path,
    fresh: Mapping[str, Any],
    content: Mapping[str, Any],
    *,
    words: Sequence[str],
    page: tuple[str, str],
) -> int:
    """Return how many figures were compared.

    Args:
        folder: The result folder.
        fresh: What follows from the samples.
        content: What was printed.
        words: What of it is compared as it is; the rest are numbers, compared to rounding.
        page: The name of the page that people read, and what it is to show.

    Raises:
        CheckError: Something differs, or the page is missing.
    """
    for name in words:
        if fresh[name] != content.get(name):
            raise CheckError(f"{folder}: {name} does not follow from the samples: run it again")
    numbers = {name: value for name, value in fresh.items() if name not in words}
    compared = compare(numbers, content, where=str(folder))
    path, text = folder / page[0], page[1]
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        raise CheckError(f"{path} does not show what the results say: run it again")
    return compared
