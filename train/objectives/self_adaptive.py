"""Self-adaptive training: what M_S does not come to believe of a label goes to abstaining."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from train.objectives.abstention import Abstaining
from train.objectives.base import Step

ROW = "row"
"""Column of the number of each training row, from 0."""


class SelfAdaptive(Abstaining):
    """Self-adaptive training for selective classification (Huang, Zhang & Zhang 2020).

    A row's loss is -(t_y log p_y + (1 - t_y) log p_{C+1}), with p over the C classes and the
    abstention. Its soft target t begins as the one-hot label and, each time that the row comes,
    first becomes m t + (1 - m) q, with q the softmax of the C logits without gradient. As the loss
    asks for the label's entry alone, that is all that is kept: float32 [N], saved with every epoch
    of the run, so that a resumed one goes on with it. Computed in float32; a row with the label
    -100 costs nothing.

    Needs the column `row`: int64 [n], the number of each row among the N training rows.

    Args:
        rows: N.
        momentum: m, in [0, 1).
    """

    columns = (ROW,)

    def __init__(self, rows: int, momentum: float) -> None:
        super().__init__()
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"expected momentum in [0, 1), got {momentum}")
        self.rows = rows
        self.momentum = momentum
        self._attached: Any = None

    def loss(self, step: Step) -> Tensor:
        """Move the targets of the rows; return the loss summed over them, divided by the items."""
        self._move_targets(step)
        target = self._attached.of_label[step.columns[ROW]][step.labels >= 0]
        own, abstention = self._log_p(step)
        return -(target * own + (1.0 - target) * abstention).sum() / step.items

    def _new_unit(self, head: nn.Linear) -> nn.Linear:
        self._attached = super()._new_unit(head)
        ones = torch.ones(self.rows, device=head.weight.device)
        self._attached.register_buffer("of_label", ones)
        return self._attached

    @torch.no_grad()
    def _move_targets(self, step: Step) -> None:
        q = step.logits.float().softmax(dim=-1)
        own = q.gather(1, step.labels.clamp(min=0).unsqueeze(1)).squeeze(1)
        rows, own = _of_all_processes(step.columns[ROW]), _of_all_processes(own)
        target = self._attached.of_label
        target[rows] = self.momentum * target[rows] + (1.0 - self.momentum) * own


def _of_all_processes(values: Tensor) -> Tensor:
    """Return [n] of every process, joined.

    Each process keeps the targets of all rows alike: torch overwrites the buffers of all processes
    with those of the first before every forward pass.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)
