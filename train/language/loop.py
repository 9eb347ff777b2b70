"""The training loop of language models."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import EarlyStoppingCallback

from train.data.tasks import Task
from train.errors import DataError
from train.language.encoding import TokenData, Tokens, answer_tokens
from train.language.guard import AnswerCollapse
from train.language.trainer import (
    HiddenStates,
    LanguageTrainer,
    OutputLayer,
    add_adapters,
    merge_adapters,
)
from train.losses.gatekeeper import Normalize
from train.models import LanguageModel, save_language_model
from train.training.output import (
    explain_full_disk,
    refuse_existing,
    require_same_data,
    work_folder,
)
from train.training.schedule import Schedule, move_model, training_arguments
from train.training.trainer_run import StopOnNaN, keep_batch, run, use_one_bar

_EVAL_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The loss, the tokens it covers, and the schedule of a training run.

    Attributes:
        alpha: Weight of the right tokens in Gatekeeper's loss; None for cross-entropy.
        schedule: Length and rates of the run.
        tokens: Tokens to learn: those of completions (`answer`), or of the prompts too (`all`).
        normalize: Divisor of the sum over tokens.
        lora: Rank of the adapters that are trained in place of the weights; None trains all.
        guarded: End a run that collapses, with the weights of its last healthy state.
    """

    alpha: float | None
    schedule: Schedule
    tokens: Tokens
    normalize: Normalize
    lora: int | None = None
    guarded: bool = False


def train_language_model(
    start: LanguageModel,
    task: Task,
    recipe: Recipe,
    *,
    out: Path,
    resume: bool,
    overwrite: bool,
    record: dict[str, Any],
) -> LanguageModel:
    """Train a model on a task, and write it with a `training.json` to a folder.

    Args:
        start: The model to start from; its weights change.
        task: The task; trained on `train`, watched on `validation`.
        recipe: The loss and the schedule.
        out: The folder to write; intermediate states are kept next to it until it is done.
        resume: Continue an interrupted run from its last saved state.
        overwrite: Replace an existing folder.
        record: Further entries of `training.json`.

    Returns:
        The trained model.

    Raises:
        OutputError: The folder is not empty.
        DataError: The task has nothing to train on, or a resumed run has other data.
        TrainingError: The loss became NaN or infinite, or the device's memory is too small.
        DeviceError: CUDA is required but not available.
        FullDiskError: A state or the checkpoint could not be written.
    """
    refuse_existing(out, overwrite=overwrite)
    _require_examples(task)
    work = work_folder(out)
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    begin = time.perf_counter()
    move_model(start.model, recipe.schedule.device)
    hidden, layer = HiddenStates(start.model), OutputLayer.of(start.model)
    trained = start.model
    if recipe.lora is not None:
        trained = add_adapters(start.model, recipe.lora, recipe.schedule.seed)
    with explain_full_disk(out.parent):
        trainer = _trainer(start, trained, task, recipe, layer, hidden, work)
        guard = _guard(start, task, recipe, hidden)
        if guard is not None:
            trainer.add_callback(guard)
        require_same_data(work, task.fingerprint())
        with _activation_checkpoints(start.model, wanted=recipe.schedule.checkpointing):
            run(trainer, work, resume=resume)
    reason = None if guard is None else guard.conclude()
    model = start if recipe.lora is None else merge_adapters(start, trained)
    model.model.eval()
    extra = {
        **record,
        "steps_run": trainer.state.global_step,
        "epochs_run": round(trainer.state.epoch or 0),
        "validation_loss": trainer.state.best_metric,
        "train_examples": len(task.train),
        "device": str(trainer.args.device),
        "precision": recipe.schedule.used_precision,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "stopped": reason,
        "wall_time_s": round(time.perf_counter() - begin, 2),
    }
    if trainer.is_world_process_zero():
        _write(model, out, work, extra)
    return model


def _require_examples(task: Task) -> None:
    for split, purpose in (("train", "train on"), ("validation", "watch")):
        if not getattr(task, split):
            raise DataError(
                f"expected examples to {purpose} in {task.name}, it has no {split} split: name a "
                "folder that has one with --data"
            )


@contextlib.contextmanager
def _activation_checkpoints(causal: Any, *, wanted: bool) -> Iterator[None]:
    """Recompute activations in the backward pass inside the block, if wanted."""
    # transformers 5 has new names for it, and warns of the old ones.
    new = hasattr(causal, "activation_checkpointing_enable")
    name = "activation_checkpointing" if new else "gradient_checkpointing"
    if wanted:
        getattr(causal, f"{name}_enable")({"use_reentrant": False})
    yield
    if wanted:
        getattr(causal, f"{name}_disable")()


def _trainer(
    start: LanguageModel,
    trained: Any,
    task: Task,
    recipe: Recipe,
    layer: OutputLayer,
    hidden: HiddenStates,
    work: Path,
) -> LanguageTrainer:
    callbacks: list[Any] = [StopOnNaN()]
    if recipe.schedule.patience is not None:
        callbacks.append(EarlyStoppingCallback(recipe.schedule.patience))
    trainer = LanguageTrainer(
        recipe.alpha,
        layer,
        hidden,
        recipe.normalize,
        model=trained,
        args=training_arguments(
            recipe.schedule,
            work,
            eval_batch_size=_EVAL_BATCH,
            # The hidden states of the whole validation split would fill the memory.
            prediction_loss_only=True,
            label_names=["labels"],
        ),
        train_dataset=TokenData(start, task.train, recipe.tokens),
        eval_dataset=TokenData(start, task.validation, recipe.tokens),
        data_collator=keep_batch,
        callbacks=callbacks,
    )
    use_one_bar(trainer)
    return trainer


def _guard(
    start: LanguageModel, task: Task, recipe: Recipe, hidden: HiddenStates
) -> AnswerCollapse | None:
    every = recipe.schedule.check_steps
    if not recipe.guarded or every is None:
        return None
    return AnswerCollapse(start, task, hidden, answer_tokens(start.tokenizer, task), every)


def _write(model: LanguageModel, out: Path, work: Path, extra: dict[str, Any]) -> None:
    model.model.to("cpu")
    with explain_full_disk(out.parent):
        save_language_model(model, out, extra=extra)
    shutil.rmtree(work, ignore_errors=True)
    loss, stopped = extra["validation_loss"], extra["stopped"]
    quality = "" if loss is None else f"validation loss {loss:.4f} per token after "
    reason = f"; {stopped}" if stopped else ""
    print(
        f"{out}: {quality}{extra['steps_run']} steps, {extra['wall_time_s']} s{reason}", flush=True
    )
