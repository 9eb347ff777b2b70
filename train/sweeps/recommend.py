"""The command `python -m train recommend`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

_NAMED = {"area": "area under joint accuracy", "auroc": "AUROC", "s_d": "s_d"}
_JOINT = "joint_accuracy@"


@dataclass(frozen=True, kw_only=True)
class RecommendSettings(Command):
    """Name the setting of a sweep to take, chosen on validation, with its test figures.

    Example: python -m train recommend --sweep runs/sweep --select joint_accuracy@0.1
    """

    sweep: Path = field("folder of a sweep")
    select: str = field(
        "what to choose by: joint_accuracy@R, area, auroc or s_d; the last two can choose a model "
        "that answers worse",
        default="joint_accuracy@0.3",
    )
    max_accuracy_drop: float = field(
        "accuracy of M_S that may be lost to the better of control and untuned", default=0.01
    )
    max_passes: float = field("forward passes of M_S an input that may be paid for", default=2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.figure  # noqa: B018 - refuses a name that is none
        if not 0.0 <= self.max_accuracy_drop <= 1.0:
            raise SettingError(
                f"expected --max-accuracy-drop in [0, 1], got {self.max_accuracy_drop}"
            )
        if not self.max_passes >= 1.0:
            raise SettingError(f"expected --max-passes of at least 1, got {self.max_passes}")

    @property
    def figure(self) -> str:
        """The figure of the table that `select` names.

        Raises:
            SettingError: It names none.
        """
        from train.comparison.figures import RATIOS, joint_name

        names = {f"{_JOINT}{ratio:g}": joint_name(ratio) for ratio in RATIOS} | _NAMED
        if self.select not in names:
            raise SettingError(f"expected --select among {', '.join(names)}, got {self.select!r}")
        return names[self.select]

    def run(self) -> None:
        """Choose, and print what was chosen beside the control."""
        from train.comparison.figures import FIGURES
        from train.comparison.samples import read_samples
        from train.sweeps.choice import recommend, sentences
        from train.sweeps.results import SAMPLES_FILE, compare_both

        samples = read_samples(self.sweep / SAMPLES_FILE)
        compared = compare_both(samples)
        chosen = recommend(
            compared["validation"],
            select=self.figure,
            largest_drop=self.max_accuracy_drop,
            most_passes=self.max_passes,
        )
        ours, control = (compared["test"][name]["figures"] for name in (chosen, "control"))
        print(f"{'on the test set':28} {chosen:>28}      control")
        for name in FIGURES:
            values = [figures[name]["value"] for figures in (ours, control)]
            cells = ["    -  " if math.isnan(value) else f"{value:.4f}" for value in values]
            print(f"{name:28} {cells[0]:>28} {cells[1]:>12}")
        large = float(samples.large["test"].mean())
        lines = sentences(compared, chosen, select=self.figure, large_accuracy=large)
        print("\n".join(lines))
