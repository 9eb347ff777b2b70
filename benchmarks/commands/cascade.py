"""Settings of the commands that run, report and check whole cascades."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.cli import Command, field
from edge_runtime.cli.shared import Limit, Overwrite
from edge_runtime.errors import SettingError

_ALPHA, _STEPS = 0.5, 600


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Limit, Overwrite, does="benchmarks.cascade.demo:run_demo"):
    """Train, tune, export, serve and run a cascade, then print what the user gets.

    With --task, a cascade of language models, compared with every rival and confidence.

    Example: python -m benchmarks demo --data digits --seeds 0,1,2 --out runs/demo
    """

    task: str | None = field(
        "task for language models instead of a data set, e.g. clinc150 (`train tasks` lists them)",
        default=None,
    )
    data: str | None = field(
        "data set name, folder or file; with --task, the data of that task (default: digits, or "
        "the task's own)",
        default=None,
        aliases=("dataset", "task_data"),
    )
    small: str | None = field(
        "M_S: an architecture, or a checkpoint folder (default: small-cnn; with --task a Gemma of "
        "37,000 weights trained from scratch)",
        default=None,
    )
    large: str | None = field(
        "M_L: an architecture, or a checkpoint folder (default: resnet-20; with --task a Gemma of "
        "470,000 weights trained from scratch)",
        default=None,
    )
    large_data: str | None = field(
        "training data of M_L (default: digits-more for digits, else that of M_S)",
        default=None,
        aliases=("large_dataset",),
    )
    alpha: float = field(
        "weight of correct samples in the Gatekeeper loss; --task tries 0.3, 0.5 and 0.6 instead",
        default=_ALPHA,
        within=(0, 1),
    )
    steps: int = field(
        "with --task: updates of the control and of Gatekeeper tuning",
        default=_STEPS,  # of 200, 600 and 1,200 the best on validation of CLINC150
        least=1,
    )
    target_deferral: float = field(
        "share of inputs to defer, which calibration aims for", default=0.3, above=0, below=1
    )
    seeds: tuple[int, ...] = field(
        "training seeds; more of them give tighter intervals", default=(0, 1, 2), nonempty=True
    )
    out: Path = field("result folder", default=Path("runs/demo"))

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_different(self.seeds)
        of_task = {"steps": _STEPS}
        of_data = {"large_data": None, "alpha": _ALPHA}
        unread = of_task if self.task is None else of_data
        named = [name for name, default in unread.items() if getattr(self, name) != default]
        if named:
            flag, side = named[0].replace("_", "-"), "with" if self.task is None else "without"
            raise SettingError(f"--{flag} works only {side} --task: leave it out")

    @property
    def small_model(self) -> str:
        """M_S of a classifiers' cascade."""
        return self.small or "small-cnn"

    @property
    def large_model(self) -> str:
        """M_L of a classifiers' cascade."""
        return self.large or "resnet-20"

    @property
    def data_set(self) -> str:
        """The data set of a classifiers' cascade."""
        return self.data or "digits"

    @property
    def large_data_set(self) -> str:
        """The data set that M_L is fitted on."""
        return self.large_data or ("digits-more" if self.data_set == "digits" else self.data_set)


@dataclass(frozen=True, kw_only=True)
class HarvestBenchmarkSettings(Overwrite, does="benchmarks.cascade.harvest:run_round"):
    """Record what M_S defers, harvest it, tune with it, and print what the user gets.

    `tuned` is compared with M_S before tuning (`untuned`), with as many steps without the harvest
    (`control`), and with as many pictures of the stream picked at random (`random`). All labels of
    the stream are M_L's. A stream that M_L was trained on flatters it.

    Example: python -m benchmarks harvest --large runs/large --out runs/harvest-digits
    """

    data: str = field(
        "data set of M_S: name, folder or file", default="digits", aliases=("dataset",)
    )
    stream: str = field("data set whose training pictures the device sees", default="digits-more")
    small: str = field("architecture of M_S", default="small-cnn")
    large: Path = field("checkpoint folder of M_L")
    objective: Literal["cross_entropy", "gatekeeper"] = field(
        "loss for tuning", default="gatekeeper"
    )
    epochs: int = field("epochs of tuning with the harvest", default=15, least=1)
    target_deferral: float = field(
        "share of inputs to defer, which calibration aims for", default=0.3, above=0, below=1
    )
    seeds: tuple[int, ...] = field("training seeds", default=(0, 1, 2), nonempty=True)
    out: Path = field("result folder", default=Path("runs/harvest"))

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_different(self.seeds)


def _require_different(seeds: tuple[int, ...]) -> None:
    if len(set(seeds)) != len(seeds):
        raise SettingError(f"expected different --seeds, got {','.join(map(str, seeds))}")


@dataclass(frozen=True, kw_only=True)
class CheckSettings(Command, does="benchmarks.cascade.check:check"):
    """Recompute every printed figure of result folders from their per-sample files.

    For a JSON file of figures: recompute them from the samples in it, with every verdict.

    Example: python -m benchmarks check runs/demo
    """

    folders: tuple[Path, ...] = field(
        "result folders, or files of figures as JSON (default: those of the repository)",
        default=(),
        positional=True,
    )


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Command, does="benchmarks.cascade.check:report"):
    """Draw the pictures of a sweep into its folder; for a file of figures, print the table.

    Example: python -m benchmarks report runs/sweep
    """

    folders: tuple[Path, ...] = field(
        "folders of sweeps, or files of figures as JSON",
        default=(),
        positional=True,
        nonempty=True,
    )
