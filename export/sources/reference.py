"""Decisions of the original model in float64, against which an exported graph is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import contract, metrics
from edge_runtime.contract import SecondLook
from export.errors import VerificationError
from train.models import VIEWS, Checkpoint, read_head

TOLERANCE = 1e-5
"""A confidence this close to a limit may fall on either side of it in float32."""
HEAD_TOLERANCE = 1e-4
"""Tolerance for a deferral head, whose weights multiply the rounding errors of the features."""
HALF_TOLERANCE = 2.0**-8
"""Tolerance for an original that rounds to the 11 bits of float16 after every layer."""
Logits = Callable[[str | None], npt.NDArray[Any]]
"""Takes the name of a view, or None, and returns the model's logits [n, classes] of it."""


@dataclass(frozen=True)
class Gate:
    """The parameters of a gate.

    Attributes:
        kind: Kind of the first confidence, a name of `edge_runtime.contract`.
        threshold: The confidence from which the model answers.
        look: The second look, or None.
    """

    kind: str
    threshold: float
    look: SecondLook | None = None


@dataclass(frozen=True, eq=False)
class Reference:
    """The original's answers, and where rounding may change them.

    Attributes:
        prediction: int64 [n], first arg-max of the first view.
        confidence: float64 [n], after the second look if the gate takes one.
        defer: bool [n].
        tied: bool [n], True where two logits are so close that either may be the prediction.
        unclear: bool [n], True where rounding decides whether a second view is taken, or of which
            class; the confidence may differ.
        border: bool [n], True where rounding decides whether to defer.
    """

    prediction: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    defer: npt.NDArray[np.bool_]
    tied: npt.NDArray[np.bool_]
    unclear: npt.NDArray[np.bool_]
    border: npt.NDArray[np.bool_]


def checkpoint_reference(checkpoint: Checkpoint, inputs: Sequence[Any], gate: Gate) -> Reference:
    """Return the decisions of a checkpoint in PyTorch, one view after the other.

    Raises:
        CheckpointError: The gate has a deferral head, and the checkpoint none.
        VerificationError: The view or the confidence of the gate is unknown.
    """

    def logits(view: str | None) -> npt.NDArray[Any]:
        return checkpoint.predict(inputs, view=view)

    if gate.kind != contract.DEFERRAL_HEAD:
        return logits_reference(logits, gate)
    own, confidence = read_head(checkpoint).confidence_of(checkpoint, inputs)
    return _decide(own.astype(np.float64), confidence, logits, gate, HEAD_TOLERANCE)


def logits_reference(logits: Logits, gate: Gate, *, tolerance: float = TOLERANCE) -> Reference:
    """Return the decisions that follow from logits alone, with the rounding error of the model.

    Raises:
        VerificationError: The view or the confidence of the gate is unknown.
    """
    if gate.kind not in _OF_LOGITS:
        raise VerificationError(
            f"expected a confidence of {', '.join(_OF_LOGITS)} or {contract.DEFERRAL_HEAD}, got "
            f"{gate.kind!r}: compare the bundle with the toolkit that made it"
        )
    first = logits(None).astype(np.float64)
    return _decide(first, _OF_LOGITS[gate.kind](first), logits, gate, tolerance)


_OF_LOGITS = {
    contract.MAX_SOFTMAX: metrics.max_softmax,
    contract.NEG_ENTROPY: metrics.neg_entropy,
}


def _decide(
    first: npt.NDArray[np.float64],
    confidence: npt.NDArray[np.float64],
    logits: Logits,
    gate: Gate,
    tolerance: float,
) -> Reference:
    tied, unclear = _tied(first, tolerance), np.zeros(len(first), bool)
    prediction = first.argmax(axis=-1)
    if gate.look is not None:
        low, high = gate.look.limits
        unclear = tied | (np.abs(confidence - low) <= tolerance)
        unclear |= np.abs(confidence - high) <= tolerance
        if gate.look.view not in VIEWS:
            raise VerificationError(
                f"expected one of {', '.join(VIEWS)} as second view, got {gate.look.view!r}: "
                "compare the bundle with the toolkit that made it"
            )
        second = metrics.probability_of(logits(gate.look.view), prediction)
        confidence = metrics.second_look(confidence, second, low, high)
    threshold = np.float32(gate.threshold)
    return Reference(
        prediction=prediction,
        confidence=confidence,
        defer=~(confidence >= threshold),
        tied=tied,
        unclear=unclear,
        border=unclear | (np.abs(confidence - threshold) <= tolerance),
    )


def _tied(logits: npt.NDArray[np.float64], tolerance: float) -> npt.NDArray[np.bool_]:
    if logits.shape[1] == 1:
        return np.zeros(len(logits), bool)
    top = np.sort(logits, axis=-1)
    # Rounding errors grow with the number.
    return np.asarray(top[:, -1] - top[:, -2] <= tolerance * np.maximum(1, np.abs(top[:, -1])))
