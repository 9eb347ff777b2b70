"""What objectives share that train a class for abstaining beside the model's own classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from train.models.features import classification_head
from train.objectives.base import Objective, Step
from train.objectives.side_head import SideHead


class Abstaining(Objective):
    """An objective over p = softmax of the C logits and one more, the abstention logit.

    The abstention logit is a linear unit on the features that the classification head reads, and
    is dropped after training: the model keeps its C logits, and its gate is their max softmax.
    Feng et al. 2023, "Towards Better Selective Classification", found that this selects better
    than the abstention logit that was trained for it, and that what such objectives gain is a
    better classifier.
    """

    def __init__(self) -> None:
        self._side = SideHead("abstention_unit")

    def attach(self, model: Any) -> None:
        """Put the abstention unit beside the classification head.

        Raises:
            CheckpointError: The model does not end in a linear layer of its classes.
        """
        head = classification_head(model)
        self._side.attach(model, head, self._new_unit(head))

    def detach(self, model: Any) -> None:
        """Drop it."""
        self._side.detach(model)

    def _new_unit(self, head: nn.Linear) -> nn.Linear:
        unit = nn.utils.skip_init(
            nn.Linear, head.in_features, 1, device=head.weight.device, dtype=head.weight.dtype
        )
        # One unit has no symmetry to break, and zeros make runs alike whatever was drawn before.
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
