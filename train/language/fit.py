"""The command `python -m train fit-lm`: stage 1, instruction tuning of a language model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edge_runtime.cli import Command, field

if TYPE_CHECKING:
    from train.data.tasks import Task
    from train.models import LanguageModel

TASK_HELP = "task name (`train tasks` lists them), or a jsonl of {prompt, completion}"
DATA_HELP = "folder, file or Hugging Face name of the task's data (default: its own)"
SHOTS_HELP = "examples in front of each question, where the task has them"
TOKENS_HELP = "answer teaches completions alone, all the prompts as well"
LORA_HELP = "train low-rank adapters of this rank instead of all weights, and merge them"


@dataclass(frozen=True, kw_only=True)
class FitLanguageSettings(Command):
    """Teach a language model a task with cross-entropy, until its validation loss stops falling.

    Example: python -m train fit-lm --checkpoint gemma-2b --task gsm8k --lora 16 --out runs/small
    """

    checkpoint: Path = field("folder of a causal language model with its tokenizer")
    task: str = field(TASK_HELP)
    data: str | None = field(DATA_HELP, default=None)
    shots: int | None = field(SHOTS_HELP, default=None)
    out: Path = field("checkpoint folder to write")
    tokens: Literal["answer", "all"] = field(TOKENS_HELP, default="answer")
    lora: int | None = field(LORA_HELP, default=None, least=1)
    epochs: int = field("at most so many epochs", default=3, least=1)
    patience: int = field("epochs without improvement before it stops", default=2, least=1)
    batch_size: int = field("examples a step", default=32, least=1)
    accumulation: int = field("steps summed before an update", default=1, least=1)
    learning_rate: float | None = field(
        "peak learning rate (default: 1e-5, with --lora 1e-4, of random weights 3e-3)",
        default=None,
        above=0,
    )
    weight_decay: float = field("weight decay", default=0.0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = field(
        "auto, fp32, bf16 or fp16; auto is bf16 on CUDA", default="auto"
    )
    gradient_checkpointing: bool = field("spend time to save memory", default=False)
    device: Literal["auto", "cpu", "cuda"] = field("auto takes CUDA where it is", default="auto")
    seed: int = field("seed of the order, and of splits that are carved out", default=0)
    limit: int | None = field("use at most so many examples a split", default=None, least=1)
    resume: bool = field("go on from the last epoch of an interrupted run", default=False)
    overwrite: bool = field("replace the checkpoint folder", default=False)

    def run(self) -> None:
        """Fit, and write the checkpoint."""
        from train.data.tasks import load_task
        from train.language.loop import open_for_training

        task = load_task(
            self.task, data=self.data, shots=self.shots, seed=self.seed, limit=self.limit
        )
        self.fit(open_for_training(self.checkpoint, self), task)

    def fit(self, start: LanguageModel, task: Task) -> None:
        """Fit a model that is open on a task that is loaded, and write the checkpoint."""
        from train.language.loop import Recipe, first_rate, train_language_model
        from train.language.trainer import TokenCrossEntropy
        from train.training.output import settings_record
        from train.training.schedule import Schedule

        rate = self.learning_rate or first_rate(self.checkpoint, lora=self.lora is not None)
        schedule = Schedule(
            epochs=self.epochs,
            batch_size=self.batch_size,
            accumulation=self.accumulation,
            learning_rate=rate,
            weight_decay=self.weight_decay,
            scheduler="cosine",
            patience=self.patience,
            precision=self.precision,
            device=self.device,
            checkpointing=self.gradient_checkpointing,
            seed=self.seed,
        )
        recipe = Recipe(
            objective=TokenCrossEntropy(),
            schedule=schedule,
            tokens=self.tokens,
            normalize="token",
            lora=self.lora,
        )
        train_language_model(
            start,
            task,
            recipe,
            out=self.out,
            resume=self.resume,
            overwrite=self.overwrite,
            record={**settings_record("fit-lm", self), "learning_rate": rate},
        )
