"""The command `python -m benchmarks demo`: the whole chain, from training to the table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

_ALPHA, _STEPS = 0.5, 600


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Command):
    """Train, tune, export, serve and run a cascade, and print what the user gets.

    With --task it is a cascade of language models, and every rival and confidence beside it.

    Example: python -m benchmarks demo --dataset digits --seeds 0,1,2 --out runs/demo
    """

    task: str | None = field(
        "task of language models instead of a data set, e.g. clinc150 (`train tasks` lists them)",
        default=None,
    )
    task_data: str | None = field(
        "folder, file or Hugging Face name of the task's data (default: its own)", default=None
    )
    dataset: str = field("data set name, folder or file", default="digits")
    small: str | None = field(
        "M_S: an architecture, or a checkpoint folder (default: small-cnn; of a task a Gemma with "
        "37,000 weights made from scratch)",
        default=None,
    )
    large: str | None = field(
        "M_L: an architecture, or a checkpoint folder (default: resnet-20; of a task a Gemma with "
        "470,000 weights made from scratch)",
        default=None,
    )
    large_dataset: str | None = field(
        "what M_L is fitted on (default: digits-more for digits, else the data set)", default=None
    )
    alpha: float = field(
        "weight of the right samples in the Gatekeeper loss; of a task 0.3, 0.5 and 0.6 are tried",
        default=_ALPHA,
    )
    steps: int = field(
        "of a task: updates of the control and of Gatekeeper",
        default=_STEPS,  # of 200, 600 and 1,200 the best on validation of CLINC150
    )
    target_deferral: float = field("deferral ratio to calibrate for", default=0.3)
    seeds: tuple[int, ...] = field("training seeds", default=(0, 1, 2))
    limit: int | None = field("use at most so many inputs a split", default=None)
    out: Path = field("result folder", default=Path("runs/demo"))
    overwrite: bool = field("replace the result folder", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise SettingError(f"expected --alpha in [0, 1], got {self.alpha}")
        if not 0 < self.target_deferral < 1:
            raise SettingError(f"expected --target-deferral in (0, 1), got {self.target_deferral}")
        self._check_task()
        if self.steps < 1:
            raise SettingError(f"expected --steps of at least 1, got {self.steps}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise SettingError(f"expected different --seeds, got {list(self.seeds)}")

    def _check_task(self) -> None:
        """Refuse what only the other kind of cascade reads."""
        of_task = {"task_data": None, "steps": _STEPS}
        of_data = {"dataset": "digits", "large_dataset": None, "alpha": _ALPHA}
        without = of_task if self.task is None else of_data
        given = [name for name, usual in without.items() if getattr(self, name) != usual]
        if given:
            flag = given[0].replace("_", "-")
            beside = "with" if self.task is None else "without"
            raise SettingError(f"expected --{flag} only {beside} --task, nothing would read it")

    @property
    def small_model(self) -> str:
        """M_S of a classifiers' cascade."""
        return self.small or "small-cnn"

    @property
    def large_model(self) -> str:
        """M_L of a classifiers' cascade."""
        return self.large or "resnet-20"

    @property
    def large_data(self) -> str:
        """The data set that M_L is fitted on."""
        return self.large_dataset or ("digits-more" if self.dataset == "digits" else self.dataset)

    def run(self) -> None:
        """Run the chain and write the result folder."""
        if self.task is not None:
            from benchmarks.language.demo.chain import run_language_chain

            run_language_chain(self)
            return
        # Torch and transformers take seconds to import; `latency` on a device must not need them.
        from benchmarks.cascade.chain import run_chain

        run_chain(self)
