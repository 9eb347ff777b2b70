"""Markdown tables that are readable as plain text."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Render a Markdown table with aligned columns.

    Args:
        rows: The heading, then the lines, all of the same length.
    """
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    head, *lines = rows
    whole = [head, ["-" * width for width in widths], *lines]
    return "\n".join(
        f"| {' | '.join(f'{cell:{width}}' for cell, width in zip(row, widths, strict=True))} |"
        for row in whole
    )
