"""Runs a Hugging Face Trainer so that a killed run can resume, with callbacks that watch it."""

from __future__ import annotations

import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME

from edge_runtime.reading import ARRAYS, read_json
from train.errors import CheckpointError, TrainingError

_LINES = 10


def keep_batch(batch: Any) -> Any:
    """Return a batch unchanged: the collator for data sets that give whole batches."""
    return batch


def use_one_bar(trainer: Trainer) -> None:
    """Show one progress bar instead of the Trainer's own output, which prints dictionaries."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress)


def run(trainer: Trainer, work: Path, *, resume: bool) -> None:
    """Train to the end, from the last state that is saved in `work` if `resume` is set.

    Raises:
        CheckpointError: The saved state is damaged, or holds objects.
        TrainingError: The device's memory is too small.
    """
    last = _last_saved(work) if resume else None
    if last is not None:
        _refuse_objects(Path(last))
    try:
        with warnings.catch_warnings():
            # With coarse time stamps the Trainer sorts its epochs by number, and warns about it.
            warnings.filterwarnings("ignore", message="mtime may not be reliable")
            trainer.train(resume_from_checkpoint=last)
    except torch.OutOfMemoryError:
        raise TrainingError(
            f"a step does not fit into the memory of {trainer.args.device}: lower --batch-size"
        ) from None
    finally:
        restore_forward(trainer.model)


def restore_forward(model: Any) -> None:
    """Restore a model's own forward pass: accelerate leaves it in half precision."""
    if vars(model).pop("_original_forward", None) is not None:
        vars(model).pop("forward", None)


def _last_saved(work: Path) -> str | None:
    """Return the newest complete saved state: a kill may have left an incomplete one."""
    folders = sorted(work.glob("checkpoint-*"), key=lambda p: int(p.name.rsplit("-", 1)[1]))
    return next((str(folder) for folder in reversed(folders) if _is_complete(folder)), None)


def _refuse_objects(folder: Path) -> None:
    """Refuse pickles of more than tensors and numbers before the Trainer reads them.

    Raises:
        CheckpointError: A file is one, or is damaged.
    """
    # Beside tensors, the state of numpy's generator is an array.
    kinds: list[Any] = [np.ndarray, np.dtype, type(np.dtype(np.uint32))]
    kinds.append(np.zeros(1).__reduce__()[0])
    for file in sorted({*folder.glob("*.pt*"), *folder.glob("*.bin")}):
        if file.name == TRAINING_ARGS_NAME:  # written for people, never read
            continue
        try:
            with torch.serialization.safe_globals(kinds):
                torch.load(file, map_location="meta", weights_only=True)  # reads no tensor's data
        except Exception:  # noqa: BLE001 - a damaged file raises many unrelated classes
            raise CheckpointError(
                f"expected the tensors of a saved state in {file}, it is damaged or holds objects, "
                "which can run code when loaded: leave --resume out to start again"
            ) from None


def _is_complete(folder: Path) -> bool:
    # The Trainer writes this file last.
    try:
        read_json(folder / "trainer_state.json", limit=ARRAYS)
    except (OSError, ValueError):
        return False
    return True


class Progress(TrainerCallback):
    """One bar over the updates with the latest losses; without a terminal ten lines at most."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._shown_part = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar = tqdm(
            total=state.max_steps,
            unit="step",
            initial=state.global_step,
            leave=None,  # under another bar it goes away at the end
            disable=None,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.update()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        shown = {k: v for k, v in (logs or {}).items() if k in {"loss", "eval_loss"}}
        self._bar.set_postfix(shown)
        part = _LINES * state.global_step // state.max_steps
        if self._bar.disable and "loss" in shown and part > self._shown_part:
            self._shown_part = part
            print(
                f"step {state.global_step} of at most {state.max_steps}: loss {shown['loss']:.4g}",
                flush=True,
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.close()


class StopOnNaN(TrainerCallback):
    """Stops a run whose loss is NaN or infinite, before the model replaces the last good one."""

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        value = (logs or {}).get("loss", 0.0)
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss became {value} in epoch {state.epoch:.0f}: lower --learning-rate; "
                f"{args.output_dir} keeps the last good epoch"
            )


class DataWait(TrainerCallback):
    """Measures the share of the time that the steps waited for their data."""

    def __init__(self) -> None:
        self._waited_s = 0.0
        self._worked_s = 0.0
        self._last = 0.0

    @property
    def share(self) -> float:
        """Waiting time over the whole time of the steps, in [0, 1]."""
        total = self._waited_s + self._worked_s
        return self._waited_s / total if total else 0.0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._last = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._waited_s += self._lap()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._worked_s += self._lap()

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        return lap
