"""Ways to turn a checkpoint's logits into a confidence, by name, each with its source.

All of them leave the prediction alone: it is the arg-max of the first view. What they differ in is
the order in which inputs are deferred, and the forward passes that one input costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime import metrics

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Views:
    """Logits of every input, and of its second view.

    Attributes:
        first: float [n, C], of the input as it came.
        second: float [n, C], of its mirror image; None for texts.
        temperature: What the logits are divided by to be calibrated, fitted on validation.
    """

    first: Floats
    second: Floats | None
    temperature: float


@dataclass(frozen=True)
class Gate:
    """A confidence.

    Attributes:
        uncertainty: Views -> float64 [n], the greater the less sure. Near certainty it keeps the
            digits that a confidence next to 1 would lose.
        passes: Forward passes of M_S an input.
        source: Where it is described.
        needs_second: Whether it looks twice.
    """

    uncertainty: Callable[[Views], Floats]
    passes: float
    source: str
    needs_second: bool = False


def _doubt(logits: Floats) -> Floats:
    """Return 1 - max softmax without cancellation: the mass of all classes but the first."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    top = logits.argmax(axis=-1)
    total = shifted.sum(axis=-1)
    shifted[np.arange(len(top)), top] = 0.0
    return np.asarray(shifted.sum(axis=-1) / total)


def _doubt_of(logits: Floats, classes: npt.NDArray[np.int64]) -> Floats:
    """Return 1 - p(class) of a given class in each row."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    total = shifted.sum(axis=-1)
    shifted[np.arange(len(classes)), classes] = 0.0
    return np.asarray(shifted.sum(axis=-1) / total)


def _margin(views: Views) -> Floats:
    p = np.exp(views.first - views.first.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    top = np.partition(p, -2, axis=-1)
    return np.asarray(top[:, -2] - top[:, -1])


def _mirror(views: Views) -> Floats:
    assert views.second is not None  # noqa: S101 - narrows the type: asked for where it is
    second = _doubt_of(views.second, views.first.argmax(axis=-1))
    return np.asarray((_doubt(views.first) + second) / 2)


GATES: Mapping[str, Gate] = {
    "max_softmax": Gate(lambda v: _doubt(v.first), 1, "Rabanser et al. 2025, eq. 6"),
    "entropy": Gate(lambda v: -metrics.neg_entropy(v.first), 1, "Rabanser et al. 2025, eq. 8"),
    "margin": Gate(_margin, 1, "Scheffer et al. 2001: first minus second probability"),
    "max_logit": Gate(lambda v: -v.first.max(axis=-1), 1, "Hendrycks et al. 2022"),
    "temperature": Gate(lambda v: _doubt(v.first / v.temperature), 1, "Guo et al. 2017"),
    "mirror": Gate(_mirror, 2, "second look at every input; Ayhan and Berens 2018", True),
}


def fitted_temperature(logits: Floats, labels: npt.NDArray[np.int64]) -> float:
    """Return the temperature with the least cross-entropy (Guo et al. 2017, section 4.2).

    Args:
        logits: float [n, C] of data that was not trained on.
        labels: int64 [n].
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        z = logits / np.exp(log_temperature)
        top = z.max(axis=-1)
        return float(np.mean(np.log(np.exp(z - top[:, None]).sum(axis=-1)) + top - z[rows, labels]))

    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded").x))
