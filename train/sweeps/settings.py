"""Settings of the commands `python -m train sweep` and `python -m train recommend`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError
from train.classifier.settings import Augmentation, Data, Stage2Data
from train.comparison.figures import AREA, RATIOS, joint_name
from train.sweeps.methods import AVERAGE, METHODS, trainings

_SELECTABLE = {
    **{f"joint_accuracy@{ratio:g}": joint_name(ratio) for ratio in RATIOS},
    "area": AREA,
    "auroc": "AUROC",
    "s_d": "s_d",
}


@dataclass(frozen=True, kw_only=True)
class SweepSettings(Data, does="train.sweeps.driver:run_sweep"):
    """Train many settings over several seeds and compare them with the control, in one table.

    The untuned model and the control (the same steps of plain cross-entropy) always take part. An
    interrupted sweep continues when the same line is run again.

    Example: python -m train sweep --data digits --large runs/large --seeds 0,1,2 --out runs/sweep
    """

    model: str = field("M_S: architecture, or a folder with a config.json", default="small-cnn")
    large: Path = field("checkpoint folder of M_L")
    out: Path = field("folder of the sweep")
    teacher: Path | None = field(
        "checkpoint folder from which stage 1 is distilled, as in `train distill`", default=None
    )
    methods: tuple[str, ...] = field(
        f"methods of stage 2, among {', '.join(METHODS)}; NAME:ALPHA trains at a single alpha",
        default=("gatekeeper", "auxiliary:0.5", "label_smoothing", "cascade_aware"),
    )
    alphas: tuple[float, ...] = field(
        "Gatekeeper's weights of the right inputs, each trained",
        default=(0.1, 0.3, 0.5, 0.7, 0.9),
        within=(0, 1),
    )
    seeds: tuple[int, ...] = field(
        "training seeds; more of them narrow the intervals", default=(0, 1, 2)
    )
    deferral: float = field(
        "deferral ratio in use later, by which the setting is chosen",
        default=0.3,
        above=0,
        below=1,
    )
    stage2_data: Stage2Data = field("data of stage 2, as in `train tune`", default="auto")
    fit_epochs: int = field("largest number of epochs of stage 1", default=60, least=1)
    patience: int = field(
        "epochs without a lower validation loss after which stage 1 stops", default=8, least=1
    )
    epochs: int = field("number of epochs of stage 2 (no early stopping)", default=15, least=1)
    batch_size: int | None = field(
        "inputs per step (default: 32, or 128 from 10,000 inputs on)", default=None, least=1
    )
    learning_rate: float = field(
        "peak learning rate of stage 1; stage 2 has half of it", default=3e-3, above=0
    )
    augment: Augmentation = field("augmentation of stage 1, as in `train fit`", default="auto")
    jobs: int = field("number of processes that train at the same time", default=1, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise SettingError(f"expected different --seeds, got {list(self.seeds)}")
        names = [training.name for training in trainings(self.methods, self.alphas)]
        if len(set(names)) != len(names):
            raise SettingError(f"expected each of --methods once, got {', '.join(names)}")
        if AVERAGE in names and len(self.seeds) < 2:  # noqa: PLR2004 - it is of two models
            raise SettingError(
                f"expected at least two --seeds for --methods {AVERAGE}, got {list(self.seeds)}"
            )


@dataclass(frozen=True, kw_only=True)
class RecommendSettings(Command, does="train.sweeps.results:print_recommendation"):
    """Name the best setting of a sweep, chosen on validation, with its test figures.

    Example: python -m train recommend --sweep runs/sweep --select joint_accuracy@0.1
    """

    sweep: Path = field("folder of a sweep")
    select: str = field(
        "figure to choose by: joint_accuracy@R, area, auroc or s_d; the last two can choose a "
        "model that answers worse",
        default="joint_accuracy@0.3",
    )
    max_accuracy_drop: float = field(
        "largest loss of accuracy of M_S against the better of control and untuned",
        default=0.01,
        within=(0, 1),
    )
    max_passes: float = field(
        "largest number of forward passes of M_S per input; 1 excludes second looks",
        default=2.0,
        least=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.select not in _SELECTABLE:
            raise SettingError(
                f"expected --select among {', '.join(_SELECTABLE)}, got {self.select!r}"
            )

    @property
    def figure(self) -> str:
        """The figure of the table that `select` names."""
        return _SELECTABLE[self.select]
