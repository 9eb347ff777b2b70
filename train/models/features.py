"""The penultimate features of a classifier: what its last linear layer reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from train.errors import CheckpointError
from train.models.checkpoint import BATCH, Checkpoint

_RANK = 2


def classification_head(model: Any) -> nn.Linear:
    """Return the linear layer that gives the logits.

    Raises:
        CheckpointError: The model does not end in one.
    """
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    if not linear or linear[-1].out_features != model.config.num_labels:
        raise CheckpointError(
            f"expected a model that ends in a linear layer of {model.config.num_labels} logits, "
            f"{type(model).__name__} does not: it takes no second head"
        )
    return linear[-1]


def penultimate_features(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return (features [n, D] that the head reads, logits [n, C]) of one forward pass."""
    seen: list[Tensor] = []
    hook = classification_head(model).register_forward_pre_hook(
        lambda _, features: seen.append(features[0])
    )
    try:
        with torch.inference_mode():
            logits = model(**inputs).logits
    finally:
        hook.remove()
    return seen[-1], logits


def features_of(
    checkpoint: Checkpoint, inputs: Sequence[Any], batch_size: int = BATCH
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return (penultimate features float32 [n, D], logits float32 [n, C]).

    Args:
        checkpoint: A classifier that ends in a linear layer.
        inputs: Pictures uint8 [height, width, 3] or texts; n >= 1.
        batch_size: Inputs that the model sees at once.

    Raises:
        CheckpointError: The model does not end in a linear layer, or that layer reads more than
            one row of features an input.
    """
    device = next(checkpoint.model.parameters()).device
    parts = []
    for start in range(0, len(inputs), batch_size):
        encoded = checkpoint.encode(inputs[start : start + batch_size])
        found = penultimate_features(
            checkpoint.model, {name: values.to(device) for name, values in encoded.items()}
        )
        _require_rows(checkpoint.model, found[0])
        parts.append([values.float().cpu().numpy() for values in found])
    features, logits = (np.concatenate(column) for column in zip(*parts, strict=True))
    return features, logits


def _require_rows(model: Any, features: Tensor) -> None:
    if features.ndim != _RANK:
        raise CheckpointError(
            f"expected a last layer that reads [batch, features], that of {type(model).__name__} "
            f"reads {list(features.shape)}: it takes no deferral head"
        )
