"""The command `python -m train tune-lm`: stage 2 of a language model, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edge_runtime.cli import Command, field
from train.language.fit import DATA_HELP, LORA_HELP, SHOTS_HELP, TASK_HELP, TOKENS_HELP

if TYPE_CHECKING:
    from train.data.tasks import Task
    from train.models import LanguageModel


@dataclass(frozen=True, kw_only=True)
class TuneLanguageSettings(Command):
    """Tune a language model so that it is sure of right tokens and unsure of wrong ones.

    `--objective cross_entropy` is the control: the same start, steps and rates without Gatekeeper.

    Example: python -m train tune-lm --checkpoint runs/small --task gsm8k --out runs/tuned
    """

    checkpoint: Path = field("folder of a causal language model with its tokenizer")
    task: str = field(TASK_HELP)
    data: str | None = field(DATA_HELP, default=None)
    shots: int | None = field(SHOTS_HELP, default=None)
    out: Path = field("checkpoint folder to write")
    objective: Literal["gatekeeper", "cross_entropy"] = field(
        "gatekeeper or cross_entropy (the control)", default="gatekeeper"
    )
    alpha: float = field(
        "Gatekeeper: weight of the right tokens, in [0, 1]", default=0.4, within=(0, 1)
    )
    tokens: Literal["answer", "all"] = field(TOKENS_HELP, default="answer")
    stage2_data: Literal["same", "holdout"] = field(
        "what to tune on: the training split (same), or half of validation (holdout), which M_S "
        "does not know by heart",
        default="same",
    )
    normalize: Literal["batch", "token"] = field(
        "what the sum over tokens is divided by: sequences (batch, eq. 4 of the paper) or tokens",
        default="batch",
    )
    lora: int | None = field(LORA_HELP, default=None, least=1)
    large: Path | None = field("checkpoint folder of M_L, to say what the user gets", default=None)
    guard: bool = field("stop a run that collapses; --guard=false to let it", default=True)
    steps: int = field("updates, all of them run", default=200, least=1)
    batch_size: int = field("examples a step", default=32, least=1)
    accumulation: int = field("steps summed before an update", default=1, least=1)
    learning_rate: float | None = field(
        "peak learning rate (default: a tenth of stage 1's)", default=None, above=0
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = field(
        "auto, fp32, bf16 or fp16; auto is bf16 on CUDA", default="auto"
    )
    gradient_checkpointing: bool = field("spend time to save memory", default=False)
    device: Literal["auto", "cpu", "cuda"] = field("auto takes CUDA where it is", default="auto")
    seed: int = field("seed of the order, and of splits that are carved out", default=0)
    limit: int | None = field("use at most so many examples a split", default=None, least=1)
    resume: bool = field("go on from the last saved state of an interrupted run", default=False)
    overwrite: bool = field("replace the checkpoint folder", default=False)

    def run(self) -> None:
        """Tune, and write the checkpoint."""
        from train.data.tasks import load_task
        from train.language.loop import open_for_training
        from train.models import open_language_model

        task = load_task(
            self.task, data=self.data, shots=self.shots, seed=self.seed, limit=self.limit
        )
        large = None if self.large is None else open_language_model(self.large)
        self.tune(open_for_training(self.checkpoint, self), task, large)

    def tune(self, start: LanguageModel, task: Task, large: LanguageModel | None = None) -> None:
        """Tune a model that is open on a task that is loaded, and write the checkpoint."""
        from train.language.stage2 import tune

        tune(self, start, task, large)
