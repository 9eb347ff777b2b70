"""The deferral head: its confidence, its file in a checkpoint's folder, and its features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize
from torch import Tensor, nn

from edge_runtime import metrics
from edge_runtime.files import write_atomically
from edge_runtime.reading import parse_json
from train.errors import CheckpointError
from train.models.checkpoint import BATCH, Checkpoint, weights_sha256

HEAD_FILE = "deferral_head.safetensors"
_RECORD = "deferral_head"  # key of the file's own metadata
_WEIGHTS = "weights_sha256"
_REMEDY = "fit it again with `python -m train deferral-head --overwrite`"


@dataclass(frozen=True, eq=False)
class DeferralHead:
    """A logistic estimate of the probability that M_L is right and M_S wrong.

    P(defer | x) = sigmoid(weight . (features(x), max softmax(x)) + bias), and the confidence is
    1 - P(defer | x), in [0, 1]. Post-hoc deferral: Narasimhan et al. 2022, "Post-hoc Estimators for
    Learning to Defer to an Expert".

    Attributes:
        weight: float32 [D + 1]: of the D penultimate features, then of the max softmax.
        bias: The logit where all inputs are 0.
        record: Origin of the head, as JSON.

    Raises:
        CheckpointError: A weight is not finite, or there are too few.
    """

    weight: npt.NDArray[np.float32]
    bias: float
    record: dict[str, Any]

    def __post_init__(self) -> None:
        if self.weight.ndim != 1 or self.weight.size < 2:  # noqa: PLR2004 - a feature, the softmax
            raise CheckpointError(
                f"expected a deferral head of [features + 1] weights, got "
                f"{list(self.weight.shape)}: {_REMEDY}"
            )
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias)):
            raise CheckpointError(
                f"expected finite weights of a deferral head, got NaN or infinity: {_REMEDY}"
            )

    def confidence(self, features: npt.ArrayLike, logits: npt.ArrayLike) -> Any:
        """Return the confidence, float64 [n] in [0, 1]; NaN where features or logits hold NaN.

        Args:
            features: float [n, D].
            logits: float [n, C].

        Raises:
            CheckpointError: D is not that of the head.
        """
        inputs = head_inputs(features, logits)
        if inputs.shape[1] != self.weight.size:
            raise CheckpointError(
                f"expected {self.weight.size - 1} features for the deferral head, the model has "
                f"{inputs.shape[1] - 1}: {_REMEDY}"
            )
        return sigmoid(-(inputs @ self.weight.astype(np.float64) + self.bias))

    def confidence_of(self, checkpoint: Checkpoint, inputs: Sequence[Any]) -> Any:
        """Return (logits float32 [n, C], confidence float64 [n]) of pictures or texts."""
        features, logits = features_of(checkpoint, inputs)
        return logits, self.confidence(features, logits)


def head_inputs(features: npt.ArrayLike, logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the inputs of the head, float64 [n, D + 1]: features and max softmax.

    The logits themselves are linear in the features and would add nothing. The max softmax is not
    linear, and no linear function of the features comes close to it.
    """
    surest = metrics.max_softmax(logits)[:, None]
    return np.concatenate([np.asarray(features, np.float64), surest], axis=1)


def sigmoid(logit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return 1 / (1 + exp(-logit)) without overflow."""
    e = np.exp(-np.abs(logit))
    return np.asarray(np.where(logit < 0, e, 1.0) / (1.0 + e))


def write_head(head: DeferralHead, folder: Path) -> None:
    """Write a head into the checkpoint folder whose weights it was fitted for."""
    record = {**head.record, _WEIGHTS: weights_sha256(folder)}
    tensors = {"weight": head.weight, "bias": np.array([head.bias], np.float32)}
    metadata = {_RECORD: json.dumps(record)}
    # Not by `save_file`, which lets the owner alone read its files, whatever the umask says.
    write_atomically(folder / HEAD_FILE, serialize(tensors, metadata=metadata))


def read_head(checkpoint: Checkpoint) -> DeferralHead:
    """Read the head of a checkpoint.

    Raises:
        CheckpointError: It is missing or damaged, or the weights have changed since its fit.
    """
    folder = checkpoint.path
    if folder is None or not (folder / HEAD_FILE).is_file():
        raise CheckpointError(
            f"expected {HEAD_FILE} in {folder}, found none: fit one with `python -m train "
            "deferral-head`"
        )
    try:
        head = _read(folder / HEAD_FILE)
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"expected a deferral head in {folder / HEAD_FILE}, it does not open ({error}): "
            f"{_REMEDY}"
        ) from None
    if head.record.get(_WEIGHTS) != weights_sha256(folder):
        raise CheckpointError(
            f"expected a deferral head for the weights in {folder}, they have changed since it "
            f"was fitted: {_REMEDY}"
        )
    return head


def _read(path: Path) -> DeferralHead:
    with safe_open(path, framework="numpy") as file:
        record = parse_json((file.metadata() or {})[_RECORD])
        weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
    if not isinstance(record, dict):
        raise TypeError(f"its record is {str(record)[:40]}")
    return DeferralHead(weight.astype(np.float32), float(bias.item()), record)


def classification_head(model: Any) -> nn.Linear:
    """Return the linear layer that gives the logits.

    Raises:
        CheckpointError: The model does not end in a linear layer of its classes.
    """
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    if not linear or linear[-1].out_features != model.config.num_labels:
        raise CheckpointError(
            f"expected a model that ends in a linear layer of {model.config.num_labels} logits, "
            f"{type(model).__name__} does not: it cannot take a second head"
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
        batch_size: Inputs per forward pass.

    Raises:
        CheckpointError: The model does not end in a linear layer, or that layer reads more than
            one row of features per input.
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
    if features.ndim != 2:  # noqa: PLR2004 - [batch, features]
        raise CheckpointError(
            f"expected a last layer that reads [batch, features], that of {type(model).__name__} "
            f"reads {list(features.shape)}: it cannot take a deferral head"
        )
