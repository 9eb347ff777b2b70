"""Tables of comparisons as people read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from train.comparison import FIGURES


def machine(hardware: Mapping[str, Any]) -> str:
    """Name it in words; results of older sweeps do not know of GPUs."""
    names = [f"{hardware['cores']} cores of {hardware['processor']}", *hardware.get("gpus", [])]
    return " and ".join(names)


def table(
    compared: Mapping[str, Any],
    controls: Collection[str],
    columns: Mapping[str, Mapping[str, str]],
) -> str:
    """Render a split's figures as a Markdown table; differences to the control stand in points.

    Args:
        compared: What `compare` returned.
        controls: The rows that others are compared with; they have no difference to show.
        columns: What stands before the figures: heading -> row -> text.
    """
    head = ["", *columns, *FIGURES]
    rows = [head, ["---"] * len(head)]
    for name, row in compared.items():
        values = [_value(row["figures"][figure]["value"]) for figure in FIGURES]
        if name not in controls:
            values = [
                f"{value}{_gain(row['minus_control'][figure])}"
                for value, figure in zip(values, FIGURES, strict=True)
            ]
        rows.append([name, *(texts[name] for texts in columns.values()), *values])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _value(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _gain(figure: Mapping[str, float]) -> str:
    if np.isnan(figure["value"]):
        return ""
    clear = figure["low"] > 0 or figure["high"] < 0
    return f" ({figure['value'] * 100:+.1f}{'*' if clear else ''})"
