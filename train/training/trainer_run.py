"""Runs a Hugging Face Trainer so that a killed run goes on where it was."""

from __future__ import annotations

import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

# MERGEDOC train/callbacks.py: 'What watches the training loop: progress, numbers that are none, and waiting for data.'
from train.errors import DataError, TrainingError

_DATA_FILE = "data.sha256"


def work_folder(out: Path) -> Path:
    """Return where a run keeps its work until `out` is written."""
    return out.parent / f".{out.name}.training"


def with_one_bar(trainer: Trainer) -> None:
    """Replace the Trainer's progress callbacks, which print every log as a dictionary."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress)


def require_same_data(work: Path, fingerprint: str) -> None:
    """Refuse to go on with other data than the interrupted run had.

    Args:
        work: Folder of the run.
        fingerprint: A hash of the data.

    Raises:
        DataError: They have changed since.
    """
    file = work / _DATA_FILE
    if not file.is_file():
        work.mkdir(parents=True, exist_ok=True)
        file.write_text(fingerprint, encoding="utf-8")
    elif file.read_text(encoding="utf-8") != fingerprint:
        raise DataError(
            f"expected the data that the run in {work} was begun with, they have changed since: "
            "leave --resume out to begin anew"
        )


def run(trainer: Trainer, work: Path, *, resume: bool) -> None:
    """Train to the end.

    Args:
        trainer: Set up.
        work: Its output folder.
        resume: Go on from what was saved last, where something was.

    Raises:
        TrainingError: The device's memory is too small.
    """
    last = _last_saved(work) if resume else None
    try:
        with warnings.catch_warnings():
            # Where time stamps are coarse the Trainer sorts its epochs by number, and says so.
            warnings.filterwarnings("ignore", message="mtime may not be reliable")
            trainer.train(resume_from_checkpoint=last)
    except torch.OutOfMemoryError:
        raise TrainingError(
            f"a step does not fit into the memory of {trainer.args.device}: lower --batch-size"
        ) from None
    finally:
        leave_autocast(trainer.model)


def leave_autocast(model: Any) -> None:
    """Give a model its own forward pass back: accelerate leaves it in half precision for good."""
    if vars(model).pop("_original_forward", None) is not None:
        vars(model).pop("forward", None)


def _last_saved(work: Path) -> str | None:
    """Return the newest saved state that is whole: a kill may have hit the writing of one."""
    folders = sorted(work.glob("checkpoint-*"), key=lambda p: int(p.name.rsplit("-", 1)[1]))
    return next((str(folder) for folder in reversed(folders) if _is_whole(folder)), None)


def _is_whole(folder: Path) -> bool:
    # The Trainer writes this file last.
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


class Progress(TrainerCallback):
    """One bar over the updates, with the latest losses; silent where nobody watches."""

    def __init__(self) -> None:
        self._bar: Any = None

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

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.close()


class StopOnNaN(TrainerCallback):
    """Stops before a broken model replaces the last good one."""

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
    """Measures which share of the time the steps waited for their data."""

    def __init__(self) -> None:
        self._waited_s = 0.0
        self._worked_s = 0.0
        self._last = 0.0

    @property
    def share(self) -> float:
        """Seconds waited over all seconds of the steps, in [0, 1]."""
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
