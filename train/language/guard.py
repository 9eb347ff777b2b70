"""Looks at what a language model answers while it is tuned, and ends a run that collapses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import TrainerCallback

from train.data.tasks import Example, Task
from train.language.hidden import HiddenStates
from train.models import LanguageModel
from train.training.health import Health

ASKED = 256
"""Validation examples that are looked at."""


class AnswerCollapse(TrainerCallback):
    """Ends a run that collapses, with the weights it had when it was last seen well.

    Args:
        model: The model in training; with LoRA the one that the adapters sit in.
        task: Its task.
        hidden: Switches the forward pass back, to generate.
        max_new_tokens: Most tokens of an answer.
        every: Updates between two looks.

    Attributes:
        reason: Why the run was ended, or None.
    """

    def __init__(
        self,
        model: LanguageModel,
        task: Task,
        hidden: HiddenStates,
        max_new_tokens: int,
        every: int,
    ) -> None:
        self._model = model
        self._task = task
        self._hidden = hidden
        self._max_new_tokens = max_new_tokens
        self._every = every
        self._examples = _spread(task.validation)
        self._start = self._health()
        self._good = self._weights()
        self.reason: str | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look now and then, and end the run before a collapsed state is saved."""
        if state.global_step % self._every:
            return
        illness = self._health().illness(self._start)
        if illness is None:
            self._good = self._weights()
            return
        self.reason = f"stopped after {state.global_step} steps: {illness}"
        control.should_training_stop = True
        control.should_save = False

    def conclude(self) -> str | None:
        """Return why the run was ended, the model then having the weights it was last well with."""
        if self.reason is not None:
            with torch.no_grad():
                for name, values in self._model.model.named_parameters():
                    if name in self._good:
                        values.copy_(self._good[name])
        return self.reason

    def _weights(self) -> dict[str, Tensor]:
        # What LoRA froze does not change.
        return {
            name: values.detach().clone()
            for name, values in self._model.model.named_parameters()
            if values.requires_grad
        }

    def _health(self) -> Health:
        with self._hidden.paused():
            said = self._model.generate([e.prompt for e in self._examples], self._max_new_tokens)
        return answer_health(self._task, self._examples, said.texts)


def answer_health(task: Task, examples: Sequence[Example], texts: Sequence[str]) -> Health:
    """Return how answers do: their accuracy, and the share that the most frequent of them has."""
    numbers: dict[str | None, int] = {}

    def number(answer: str | None) -> int:
        return numbers.setdefault(answer, len(numbers))

    gold: npt.NDArray[np.int64] = np.array([number(example.gold) for example in examples])
    said: npt.NDArray[np.int64] = np.array([number(task.parse(text)) for text in texts])
    return Health.of(said, gold)


def _spread(examples: tuple[Example, ...]) -> tuple[Example, ...]:
    kept = min(ASKED, len(examples))
    return tuple(examples[i * len(examples) // kept] for i in range(kept))
