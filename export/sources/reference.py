"""What the original model decides, in float64: an answer to hold an exported graph to."""

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
"""The same for a deferral head, whose weights multiply what float32 rounds off the features."""
HALF_TOLERANCE = 2.0**-8
"""The same where the original rounds to the 11 bits of float16 after every layer."""
Pictures = Sequence[npt.NDArray[np.uint8]]
Ask = Callable[[str | None], npt.NDArray[Any]]
"""Takes the name of a view, or None, and returns the model's logits [n, classes] of it."""


@dataclass(frozen=True)
class Gate:
    """What a graph decides by.

    Attributes:
        kind: The first confidence, a name of `edge_runtime.contract`.
        threshold: The confidence from which the model answers.
        look: The second look, or None.
    """

    kind: str
    threshold: float
    look: SecondLook | None = None


@dataclass(frozen=True, eq=False)
class Reference:
    """The original's answers.

    Attributes:
        prediction: int64 [n], first arg-max of the first view.
        confidence: float64 [n], after the second look where the gate takes one.
        defer: bool [n].
        tied: bool [n], two logits so close that either may be the prediction.
        unclear: bool [n], whether a second view is taken, or of which class, is a matter of
            rounding; the confidence may be another.
        border: bool [n], whether to defer is.
    """

    prediction: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    defer: npt.NDArray[np.bool_]
    tied: npt.NDArray[np.bool_]
    unclear: npt.NDArray[np.bool_]
    border: npt.NDArray[np.bool_]


def ask_pytorch(checkpoint: Checkpoint, images: Pictures, gate: Gate) -> Reference:
    """Let the checkpoint answer by itself, one view after the other.

    Raises:
        CheckpointError: The gate has a deferral head, and the checkpoint none.
        VerificationError: The gate looks at a view, or has a confidence, that is not known here.
    """

    def ask(view: str | None) -> npt.NDArray[Any]:
        return checkpoint.predict(images, view=view)

    if gate.kind != contract.DEFERRAL_HEAD:
        return decide(ask, gate)
    logits, confidence = read_head(checkpoint).confidence_of(checkpoint, images)
    return _decided(logits.astype(np.float64), confidence, ask, gate, HEAD_TOLERANCE)


def decide(ask: Ask, gate: Gate, *, tolerance: float = TOLERANCE) -> Reference:
    """Decide by a model's logits alone.

    Args:
        ask: The model, and its inputs.
        gate: What to decide by.
        tolerance: How far the model rounds.

    Raises:
        VerificationError: The gate looks at a view, or has a confidence, that is not known here.
    """
    if gate.kind not in _OF_LOGITS:
        raise VerificationError(
            f"expected a confidence of {', '.join(_OF_LOGITS)} or {contract.DEFERRAL_HEAD}, got "
            f"{gate.kind!r}: compare the bundle with the toolkit that made it"
        )
    logits = ask(None).astype(np.float64)
    return _decided(logits, _OF_LOGITS[gate.kind](logits), ask, gate, tolerance)


def _decided(
    logits: npt.NDArray[np.float64],
    confidence: npt.NDArray[np.float64],
    ask: Ask,
    gate: Gate,
    tolerance: float = TOLERANCE,
) -> Reference:
    tied, unclear = _tied(logits, tolerance), np.zeros(len(logits), bool)
    prediction = logits.argmax(axis=-1)
    if gate.look is not None:
        low, high = gate.look.limits
        unclear = tied | (np.abs(confidence - low) <= tolerance)
        unclear |= np.abs(confidence - high) <= tolerance
        second = _second(ask, gate.look.view, prediction)
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


_OF_LOGITS = {
    contract.MAX_SOFTMAX: metrics.max_softmax,
    contract.NEG_ENTROPY: metrics.neg_entropy,
}


def _tied(logits: npt.NDArray[np.float64], tolerance: float) -> npt.NDArray[np.bool_]:
    if logits.shape[1] == 1:
        return np.zeros(len(logits), bool)
    top = np.sort(logits, axis=-1)
    # Rounding grows with the number.
    return np.asarray(top[:, -1] - top[:, -2] <= tolerance * np.maximum(1, np.abs(top[:, -1])))


def _second(ask: Ask, view: str, prediction: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the second view's probability of the prediction, [n]."""
    if view not in VIEWS:
        raise VerificationError(
            f"expected one of {', '.join(VIEWS)} as second view, got {view!r}: compare the bundle "
            "with the toolkit that made it"
        )
    return metrics.probability_of(ask(view), prediction)
