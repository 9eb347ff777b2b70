"""The interface of an objective, and the objectives that need only the model's own logits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from train.losses.gatekeeper import check_alpha, gatekeeper_loss

RIGHT = "right"
"""Column bool [n]: whether a row counts as right."""
TEACHER = "teacher"
"""Column float [n, C]: the teacher's logits."""
LARGE_RIGHT = "large_right"
"""Column bool [n]: whether M_L gets a row right."""


@dataclass(frozen=True)
class Step:
    """One batch on its way through the loss.

    Attributes:
        logits: float [n, C].
        labels: int64 [n]; -100 for a row without a label.
        columns: Further facts about the rows, by name, each [n, ...].
        items: Divisor of a sum over rows. With gradient accumulation it counts the items of all
            steps of the update, so 1 x 8 and 4 x 2 give the same update.
    """

    logits: Tensor
    labels: Tensor
    columns: Mapping[str, Tensor]
    items: int | Tensor


class Objective(ABC):
    """A loss of the training loop, with the layers that are trained next to the model for it.

    Attributes:
        columns: Names of the columns that `loss` needs.
    """

    columns: tuple[str, ...] = ()

    @abstractmethod
    def loss(self, step: Step) -> Tensor:
        """Return the scalar to minimise."""

    def attach(self, model: Any) -> None:  # noqa: B027 - most objectives add no layers
        """Add the objective's layers to the model; called once, before the optimizer is made."""

    def detach(self, model: Any) -> None:  # noqa: B027 - likewise
        """Remove the objective's layers: a checkpoint holds only the model."""


class CrossEntropy(Objective):
    """Cross-entropy, with optional label smoothing (Szegedy et al. 2016, section 7).

    Without smoothing it is the loss of stage 1, and the control of every stage 2.

    Args:
        smoothing: Share of a label that is spread over all classes, in [0, 1).
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"expected smoothing in [0, 1), got {smoothing}")
        self.smoothing = smoothing

    def loss(self, step: Step) -> Tensor:
        """Return the cross-entropy summed over the rows, divided by the items."""
        total = F.cross_entropy(
            step.logits.float(), step.labels, reduction="sum", label_smoothing=self.smoothing
        )
        return total / step.items


class Gatekeeper(Objective):
    """The Gatekeeper loss (Rabanser et al. 2025, eq. 2): sure where right, unsure where wrong.

    Args:
        alpha: Weight of the right, in [0, 1].
        by_column: Read right and wrong from the column `right`, not from the batch's own logits,
            which come from train mode and from pictures that the model may know by heart.
    """

    def __init__(self, alpha: float, *, by_column: bool = False) -> None:
        check_alpha(alpha)
        self.alpha = alpha
        self.columns = (RIGHT,) if by_column else ()

    def loss(self, step: Step) -> Tensor:
        """Return the loss summed over the rows, divided by the items."""
        return gatekeeper_loss(
            step.logits,
            step.labels,
            self.alpha,
            denominator=step.items,
            correct=step.columns.get(RIGHT),
        )


class Distillation(Objective):
    """Knowledge distillation (Hinton, Vinyals & Dean 2015, section 2), and labels if there are any.

    The loss of a row is

        weight * T^2 * KL(softmax(t / T) || softmax(z / T)) + (1 - weight) * CE(z, y)

    with student logits z and teacher logits t; T^2 keeps the gradients of both parts similar in
    size. A row with the label -100 has only the first part. Computed in float32.

    Needs the column `teacher`, in the student's order of classes. -inf marks a class to which the
    teacher gives no probability; its term is 0 (0 log 0 = 0).

    Args:
        temperature: T, above 0.
        weight: Share of the teacher's part, in [0, 1].
    """

    columns = (TEACHER,)

    def __init__(self, temperature: float = 4.0, weight: float = 0.9) -> None:
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"expected a temperature above 0, got {temperature}")
        if not 0.0 <= weight <= 1.0:
            raise ValueError(f"expected weight in [0, 1], got {weight}")
        self.temperature = temperature
        self.weight = weight

    def loss(self, step: Step) -> Tensor:
        """Return the loss summed over the rows, divided by the items."""
        student = step.logits.float()
        teacher = step.columns[TEACHER].float()
        target = (teacher / self.temperature).softmax(dim=-1)
        log_p = (student / self.temperature).log_softmax(dim=-1)
        divergence = F.kl_div(log_p, target, reduction="sum")
        taught = self.weight * self.temperature**2 * divergence
        # Cross-entropy ignores -100.
        labelled = F.cross_entropy(student, step.labels, reduction="sum")
        return (taught + (1.0 - self.weight) * labelled) / step.items


class CascadeAware(Objective):
    """Cross-entropy on the rows that M_S or M_L gets right (Wang et al. 2024, section 3).

    A row that neither can answer only takes capacity from the others; a row that only M_L can
    answer still teaches M_S. Needs the column `large_right`.
    """

    columns = (LARGE_RIGHT,)

    def loss(self, step: Step) -> Tensor:
        """Return the cross-entropy summed over the kept rows, divided by the items."""
        logits = step.logits.float()
        with torch.no_grad():
            kept = (logits.argmax(dim=-1) == step.labels) | step.columns[LARGE_RIGHT]
        losses = F.cross_entropy(logits, step.labels, reduction="none")
        return (losses * kept).sum() / step.items
