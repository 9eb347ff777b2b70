"""Renders what `benchmarks quantization` measured as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def precisions(rows: dict[str, Any]) -> str:
    """Return sizes, times, accuracies and flips."""
    head = (
        "source, precision",
        "MB",
        "smaller",
        "ms",
        "faster",
        "accuracy",
        "predictions differing",
        "decisions differing",
        "deferred",
        "interval printed",
    )
    return _table(head, [_precision(name, row) for name, row in rows.items()])


def _precision(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["interval"]
    return (
        name,
        f"{row['megabytes']:.2f}",
        f"{row['smaller']:.2f} x",
        f"{row['median_ms']:.3f}",
        f"{row['faster']:.2f} x",
        f"{row['accuracy']:.4f}",
        f"{row['predictions_differing']:.2%}",
        f"{row['decisions_differing']:.2%}",
        f"{row['deferral_ratio']:.1%}",
        f"{low:.1%} to {high:.1%}",
    )


def goals(rows: dict[str, Any]) -> str:
    """Return, goal by goal, what became of it on the test split."""
    wanted = list(next(iter(rows.values()))["goals"])
    lines = [(name, *(_outcome_cell(row["goals"][g], g) for g in wanted)) for name, row in rows.items()]
    return _table(("source, precision", *wanted), lines)


def _outcome_cell(found: dict[str, Any], goal: str) -> str:
    if "refused" in found:
        return "refused"
    error = found["wrong"] / found["answered"] if found["answered"] else 0.0
    text = f"answers {1 - found['deferral_ratio']:.1%}, {error:.2%} of them wrong"
    return f"{text}, harm {found['harm']:.2%}" if goal.startswith("max-harm") else text


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    whole = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in whole)
