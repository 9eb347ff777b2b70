"""Cascade-aware training: nothing is asked of M_S where M_L will have to answer anyway."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from train.objectives.base import Objective, Step

LARGE_RIGHT = "large_right"


class CascadeAware(Objective):
    """Cross-entropy on the rows that M_S or M_L gets right (Wang et al. 2024, section 3).

    A row that neither can answer only takes capacity from the others; one that M_L alone can
    answer still teaches M_S. Needs the column `large_right` bool [n].
    """

    columns = (LARGE_RIGHT,)

    def loss(self, step: Step) -> Tensor:
        """Return the cross-entropy summed over the kept rows, divided by the items."""
        logits = step.logits.float()
        with torch.no_grad():
            kept = (logits.argmax(dim=-1) == step.labels) | step.columns[LARGE_RIGHT]
        losses = F.cross_entropy(logits, step.labels, reduction="none")
        return (losses * kept).sum() / step.items
