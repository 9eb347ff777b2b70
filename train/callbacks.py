"""What watches the training loop: progress, numbers that are none, and waiting for data."""

from __future__ import annotations

import math
import time
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from train.errors import TrainingError


class Progress(TrainerCallback):
    """One bar over the updates, with the latest losses; silent where nobody watches."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar = tqdm(
            total=state.max_steps, unit="step", initial=state.global_step, disable=None
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
