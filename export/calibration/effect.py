"""Says in words what a threshold defers, and how often the rest is right."""

from __future__ import annotations

import numpy as np

from export.calibration.sample import Sample


def effect(threshold: float, sample: Sample) -> str:
    """Return what the gate does to a sample at a threshold.

    Args:
        threshold: The confidence from which M_S answers.
        sample: The data, as the graph with its second look answers them.
    """
    kept = sample.confidence >= np.float32(threshold)  # False for NaN
    share, count = 1.0 - kept.mean(), int(kept.sum())
    if not count:
        return "defers all of them"
    text = (
        f"defers {share:.1%} of them; M_S is right on {sample.right[kept].mean():.1%} of the "
        f"{count} that it keeps"
    )
    if sample.large_right is None:
        return text
    joint = np.where(kept, sample.right, sample.large_right).mean()
    return f"{text}, the cascade on {joint:.1%} of all"


def change(
    before: float, after: float, sample: Sample, *, data: str, is_same_look: bool = True
) -> list[str]:
    """Return lines on the thresholds before and after.

    Args:
        before: Threshold before.
        after: Threshold after.
        sample: The data, as the graph answers them after the change.
        data: Split and name of the data.
        is_same_look: Whether the graph answered them before as well.
    """
    lines = [f"on the {len(sample)} inputs of {data}:"]
    if is_same_look:
        lines.append(f"  before: {effect(before, sample)}")
    return [*lines, f"  after:  {effect(after, sample)}"]
