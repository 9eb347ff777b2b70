"""The training loop of language models."""

from __future__ import annotations

import contextlib
import json
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
from train.language.hidden import HiddenStates, OutputLayer, merged, with_adapters
from train.language.trainer import LanguageTrainer, Normalize, TokenObjective
from train.models import LanguageModel, open_language_model, save_language_model
from train.models.checkpoint import FILE
from train.training.output import (
    explain_full_disk,
    refuse_existing,
    require_same_data,
    work_folder,
)
from train.training.schedule import Schedule, move_model, training_arguments
from train.training.trainer_run import (
    StopOnNaN,
    keep_batch,
    run,
    use_one_bar,
)

# MERGEDOC train/language/opening.py: 'Opens a language model for training, and finds a learning rate that suits it.'

_EVAL_BATCH = 16

_WHOLE, _ADAPTERS, _RANDOM = 1e-5, 1e-4, 3e-3
_SECOND_STAGE = 0.1
NEW = "new-lm"
"""The command that made a model with random weights."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is taught, and how.

    Attributes:
        objective: The loss.
        schedule: How long and how fast.
        tokens: Which tokens are taught: completions (`answer`), or the prompts as well (`all`).
        normalize: What the sum over tokens is divided by.
        lora: Rank of the adapters that are trained instead of the weights; None trains all.
        guarded: End a run that collapses with the weights it had when it was last seen well.
    """

    objective: TokenObjective
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
) -> tuple[LanguageModel, str | None]:
    """Train on a task and write the folder `out`, with `training.json` beside the weights.

    Args:
        start: What to start from; its weights are changed.
        task: Trains on `train`, watches `validation`.
        recipe: What is taught, and how.
        out: The folder to write; the work is kept beside it until it is done.
        resume: Go on from the last saved state of an interrupted run.
        overwrite: Replace an existing folder.
        record: What else `training.json` says.

    Returns:
        The model, and why the guard ended the run, or None.

    Raises:
        OutputError: The folder is not empty.
        DataError: The task has nothing to train on, or a run is resumed with other data.
        TrainingError: The loss became NaN or infinite, or the device's memory is too small.
        DeviceError: CUDA was asked for and is not there.
        FullDiskError: A state or the checkpoint could not be written.
    """
    refuse_existing(out, overwrite=overwrite)
    _require_examples(task)
    work = work_folder(out)
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    begin = time.perf_counter()
    move_model(start.model, recipe.schedule.device)
    model, hidden = start, HiddenStates(start.model)
    layer = OutputLayer.of(start.model)
    trained = start.model if recipe.lora is None else _adapted(start.model, recipe)
    with explain_full_disk(out.parent):
        trainer = _trainer(start, trained, task, recipe, layer, hidden, work)
        guard = _guard(start, task, recipe, hidden)
        if guard is not None:
            trainer.add_callback(guard)
        require_same_data(work, task.fingerprint())
        with _spared_memory(start.model, wanted=recipe.schedule.checkpointing):
            run(trainer, work, resume=resume)
    reason = None if guard is None else guard.conclude()
    if recipe.lora is not None:
        model = merged(start, trained)
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
    return model, reason


def _require_examples(task: Task) -> None:
    for split in ("train", "validation"):
        if not getattr(task, split):
            raise DataError(
                f"expected examples to {'train on' if split == 'train' else 'watch'} in "
                f"{task.name}, it has no {split} split: name a folder that has one with --data"
            )


def _adapted(causal: Any, recipe: Recipe) -> Any:
    assert recipe.lora is not None  # noqa: S101 - narrows the type: asked before
    with torch.random.fork_rng():
        torch.manual_seed(recipe.schedule.seed)
        return with_adapters(causal, recipe.lora)


@contextlib.contextmanager
def _spared_memory(causal: Any, *, wanted: bool) -> Iterator[None]:
    """Compute activations again in the backward pass inside the block, where that is wanted."""
    # transformers 5 has other names for it, and warns of these.
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
        recipe.objective,
        layer,
        hidden,
        recipe.normalize,
        model=trained,
        args=training_arguments(
            recipe.schedule,
            work,
            eval_batch_size=_EVAL_BATCH,
            # Hidden states of the whole validation split would fill the memory.
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
    loss = extra["validation_loss"]
    said = "" if loss is None else f"validation loss {loss:.4f} a token after "
    why = f"; {extra['stopped']}" if extra["stopped"] else ""
    print(f"{out}: {said}{extra['steps_run']} steps, {extra['wall_time_s']} s{why}", flush=True)


def open_for_training(folder: Path, settings: Any) -> LanguageModel:
    """Open a language model; what LoRA leaves as it is may lie in half precision.

    Args:
        folder: Its folder.
        settings: Of the training, with `lora` and `precision`.

    Raises:
        CheckpointError: It does not open.
    """
    frozen = settings.lora is not None and settings.precision == "bf16"
    return open_language_model(folder, weights="bf16" if frozen else "fp32")


def first_rate(folder: Path, *, lora: bool) -> float:
    """Return the peak learning rate of stage 1 where nobody said one."""
    if _record(folder).get("command") == NEW:
        return _RANDOM
    return _ADAPTERS if lora else _WHOLE


def second_rate(folder: Path, *, lora: bool) -> float:
    """Return the peak learning rate of stage 2 where nobody said one: a tenth of stage 1's."""
    first = _record(folder).get("learning_rate")
    return _SECOND_STAGE * (first if isinstance(first, float) else first_rate(folder, lora=lora))


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
