"""Rivals of Gatekeeper that train a class for abstaining: Deep Gamblers and self-adaptive."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, distributed, nn

from edge_runtime.errors import SettingError
from train.models.deferral_head import classification_head
from train.objectives.basic import Objective, Step
from train.objectives.heads import SideHead

ROW = "row"
"""Column int64 [n]: the number of each row among the training rows, from 0."""


class Abstaining(Objective):
    """An objective over p, the softmax of the C logits and one more, the abstention logit.

    The abstention logit is a linear unit on the features that the classification head reads. It is
    dropped after training: the model keeps its C logits, and its gate is their max softmax. Feng et
    al. 2023, "Towards Better Selective Classification", found that this selects better than the
    abstention logit itself, and that such objectives gain by a better classifier.
    """

    def __init__(self) -> None:
        self._side = SideHead("abstention_unit")

    def attach(self, model: Any) -> None:
        """Put the abstention unit next to the classification head.

        Raises:
            CheckpointError: The model does not end in a linear layer of its classes.
        """
        head = classification_head(model)
        self._side.attach(model, head, self._new_unit(head))

    def detach(self, model: Any) -> None:
        """Drop the abstention unit."""
        self._side.detach(model)

    def _new_unit(self, head: nn.Linear) -> nn.Linear:
        unit = nn.utils.skip_init(
            nn.Linear, head.in_features, 1, device=head.weight.device, dtype=head.weight.dtype
        )
        # One unit has no symmetry to break, and zeros make a run independent of earlier draws.
        nn.init.zeros_(unit.weight)
        nn.init.zeros_(unit.bias)
        return unit

    def _log_p(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return (log p_y, log p_{C+1}) of the m rows with a label, each float32 [m]."""
        logits = torch.cat([step.logits.float(), self._side.output.float()], dim=-1)
        labelled = step.labels >= 0
        log_p = logits[labelled].log_softmax(dim=-1)  # [m, C + 1]
        own = log_p.gather(1, step.labels[labelled].unsqueeze(1))
        return own.squeeze(1), log_p[:, -1]


class DeepGamblers(Abstaining):
    """The gambler's loss (Liu et al. 2019, "Deep Gamblers": abstaining by portfolio theory).

    The loss of a row is -log(o p_y + p_{C+1}), with the payoff o and p over the C classes and the
    abstention: a bet on the right class returns o times the stake, and the reserve is kept. A
    greater o abstains less. The paper begins with some epochs of cross-entropy, which are stage 1
    here. Computed in float32; a row with the label -100 costs nothing.

    Args:
        payoff: o, above 1 and at most C.
    """

    def __init__(self, payoff: float) -> None:
        super().__init__()
        if not 1.0 < payoff < math.inf:
            raise ValueError(f"expected a payoff above 1, got {payoff}")
        self.payoff = payoff

    def _new_unit(self, head: nn.Linear) -> nn.Linear:
        if self.payoff > head.out_features:  # a blind bet would gain
            raise SettingError(
                f"expected --payoff above 1 and at most {head.out_features}, the number of "
                f"classes, got {self.payoff:g}: lower it"
            )
        return super()._new_unit(head)

    def loss(self, step: Step) -> Tensor:
        """Return the loss summed over the rows, divided by the items."""
        own, abstention = self._log_p(step)
        return -torch.logaddexp(own + math.log(self.payoff), abstention).sum() / step.items


class SelfAdaptive(Abstaining):
    """Self-adaptive training for selective classification (Huang, Zhang & Zhang 2020).

    The loss of a row is -(t_y log p_y + (1 - t_y) log p_{C+1}), with p over the C classes and the
    abstention. Its soft target t starts as the one-hot label; each time the row is seen, it first
    becomes m t + (1 - m) q, with q the softmax of the C logits without gradient. The loss uses only
    the label's entry, so only that is kept: float32 [N], saved with every epoch, so that a resumed
    run continues with it. Computed in float32; a row with the label -100 costs nothing.

    Needs the column `row`.

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
        """Update the rows' targets; return the loss summed over the rows, divided by the items."""
        self._update_targets(step)
        target = self._attached.of_label[step.columns[ROW]][step.labels >= 0]
        own, abstention = self._log_p(step)
        return -(target * own + (1.0 - target) * abstention).sum() / step.items

    def _new_unit(self, head: nn.Linear) -> nn.Linear:
        self._attached = super()._new_unit(head)
        ones = torch.ones(self.rows, device=head.weight.device)
        self._attached.register_buffer("of_label", ones)
        return self._attached

    @torch.no_grad()
    def _update_targets(self, step: Step) -> None:
        q = step.logits.float().softmax(dim=-1)
        own = q.gather(1, step.labels.clamp(min=0).unsqueeze(1)).squeeze(1)
        rows, own = _gather(step.columns[ROW]), _gather(own)
        target = self._attached.of_label
        target[rows] = self.momentum * target[rows] + (1.0 - self.momentum) * own


def _gather(values: Tensor) -> Tensor:
    """Return the values of all processes, joined.

    Every process needs the targets of all rows: torch overwrites the buffers of all processes with
    those of the first before every forward pass.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)
