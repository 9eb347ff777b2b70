"""The command `python -m benchmarks quantization`: what each way of storing the weights costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_runtime.cli import field
from edge_runtime.errors import SettingError

KINDS = ("none", "fp16", "int8", "int8-dynamic", "int4")
GOALS = ("target-deferral", "target-accuracy", "max-risk", "max-harm")
SOURCES = ("checkpoint", "program", "onnx")


@dataclass(frozen=True, kw_only=True)
class QuantizationSettings:
    """Export a model in every precision, and compare size, time, accuracy and decisions.

    Every bundle is calibrated as it ships, for each goal in turn; accuracy, deferral ratio, flips
    and what became of a guarantee are of the test split. What a precision or a goal cannot do is
    said with the reason.

    Example: python -m benchmarks quantization --checkpoint runs/small --data digits
    """

    checkpoint: Path = field("checkpoint folder")
    program: Path | None = field("the same model as a torch.export program as well", default=None)
    onnx: Path | None = field("the same model as somebody's ONNX file as well", default=None)
    data: str = field("data set to calibrate and test on", default="digits")
    split: Literal["validation", "test"] = field(
        "split to choose the thresholds on; the figures are of test", default="validation"
    )
    kinds: tuple[str, ...] = field("precisions", default=KINDS)
    goals: tuple[str, ...] = field(
        f"goals to calibrate for, NAME=VALUE of {', '.join(GOALS)}; flips are told at the first",
        default=("target-deferral=0.3",),
    )
    large: Path | None = field("checkpoint folder of M_L, for max-harm", default=None)
    rounds: int = field("alternating rounds of the timing", default=20)
    threads: int | None = field("threads of one run (default: all cores)", default=None)
    out: Path | None = field("write the result here as JSON", default=None)

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or "none" not in self.kinds:
            raise SettingError(
                f"expected --kinds among {', '.join(KINDS)}, none (the float graph) with them, got "
                f"{', '.join(self.kinds)}"
            )
        if not self.goals:
            raise SettingError("expected at least one goal in --goals, got none")
        for goal in self.goals:
            as_settings(goal, self.large)
        if self.rounds < 1:
            raise SettingError(f"expected --rounds of at least 1, got {self.rounds}")

    @property
    def sources(self) -> dict[str, Path]:
        """The files and folders that hold the model, by the flag of `export` that takes them."""
        named = {name: getattr(self, name) for name in SOURCES}
        return {name: path for name, path in named.items() if path is not None}

    def run(self) -> None:
        """Print the tables, and write them where asked."""
        from benchmarks.quantization_figures import measure

        measure(self)


def as_settings(goal: str, large: Path | None) -> dict[str, Any]:
    """Return `export`'s settings for a goal like `max-risk=0.05`.

    Raises:
        SettingError: It is none, or M_L is missing for it.
    """
    name, _, text = goal.partition("=")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if name not in GOALS or not 0.0 <= value <= 1.0:
        raise SettingError(
            f"expected --goals like target-deferral=0.3, of {', '.join(GOALS)} with a value in "
            f"[0, 1], got {goal}"
        )
    if name != "max-harm":
        return {name.replace("-", "_"): value}
    if large is None:
        raise SettingError("expected --large CHECKPOINT with the goal max-harm")
    return {"max_harm": value, "large": large}
