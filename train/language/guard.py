"""Watches the answers of a language model in tuning, and ends a run that collapses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import TrainerCallback

from train.data.tasks import Example, Task
from train.language.trainer import HiddenStates
from train.models import LanguageModel
from train.training.health import Health

WATCHED = 256
"""Most validation examples that are answered at each check."""


class AnswerCollapse(TrainerCallback):
    """Ends a run that collapses, with the weights of its last healthy state.

    Args:
        model: The model in training; with LoRA the one that holds the adapters.
        task: Its task.
        hidden: The switch that gives logits again, for generating.
        max_new_tokens: Most tokens of an answer.
        every: Updates between two checks.

    Attributes:
        reason: The reason why the run was ended, or None.
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
        self._examples = task.limited(WATCHED).validation
        self._start = self._health()
        self._good = self._weights()
        self.reason: str | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Check the model now and then; end the run before a collapsed state is saved."""
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
        """Return the reason why the run was ended, or None; restore the last healthy weights."""
        if self.reason is not None:
            with torch.no_grad():
                for name, values in self._model.model.named_parameters():
                    if name in self._good:
                        values.copy_(self._good[name])
        return self.reason

    def _weights(self) -> dict[str, Tensor]:
        # The weights that LoRA freezes do not change.
        return {
            name: values.detach().clone()
            for name, values in self._model.model.named_parameters()
            if values.requires_grad
        }

    def _health(self) -> Health:
        prompts = [example.prompt for example in self._examples]
        with self._hidden.paused():
            texts = self._model.generate(prompts, self._max_new_tokens).texts
        return answer_health(self._task, self._examples, texts)


def answer_health(task: Task, examples: Sequence[Example], texts: Sequence[str]) -> Health:
    """Return accuracy and variety of generated texts: each distinct answer counts as a class."""
    numbers: dict[str | None, int] = {}

    def number(answer: str | None) -> int:
        return numbers.setdefault(answer, len(numbers))

    gold: npt.NDArray[np.int64] = np.array([number(example.gold) for example in examples])
    answers: npt.NDArray[np.int64] = np.array([number(task.parse(text)) for text in texts])
    return Health.of(answers, gold)
