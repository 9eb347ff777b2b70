"""Knowledge distillation (Hinton, Vinyals & Dean 2015, section 2)."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from train.objectives.base import Objective, Step

TEACHER = "teacher"
"""Column of the teacher's logits."""


class Distillation(Objective):
    """The teacher's softened answer, and the label where there is one.

    A row's loss is weight * T^2 * KL(softmax(t / T) || softmax(z / T)) + (1 - weight) * CE(z, y),
    with student logits z and teacher logits t; T^2 keeps the gradients of the two parts alike in
    size. A row with the label -100 has the first part alone. Computed in float32.

    Needs the column `teacher`: float [n, C], logits in the student's order of classes. -inf marks
    a class that the teacher gives no probability, and costs nothing there (0 log 0 = 0).

    Args:
        temperature: T, over 0.
        weight: Share of the teacher's part, in [0, 1].
    """

    columns = (TEACHER,)

    def __init__(self, temperature: float = 4.0, weight: float = 0.9) -> None:
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"expected a temperature over 0, got {temperature}")
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
        # -100 is the index that cross-entropy leaves out.
        labelled = F.cross_entropy(student, step.labels, reduction="sum")
        return (taught + (1.0 - self.weight) * labelled) / step.items
