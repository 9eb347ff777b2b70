"""When the deferral of a generation that still runs is certain already.

No kind here rises from one token to the next: logarithms of probabilities and negative entropies
are at most 0, so sums of them fall, and so do least values. Float32 keeps that order (rounding is
monotone), but a division or an exponential may end an ulp beside another library's; the limits here
stay clear of that, so that the decision is the one of the whole generation.
"""

from __future__ import annotations

import math
from typing import Final

from edge_runtime import contract

_MEANS: Final = (contract.NEG_ENTROPY, contract.MEAN_LOGPROB)
_PROBABILITIES: Final = (contract.MIN_PROB, contract.MAX_SOFTMAX)
_ULP: Final = 2.0**-23  # of a float32 next to 1
_LEAST_NORMAL: Final = 2.0**-126
_LEAST: Final = 2.0**-149
_CLEARANCE: Final = 4  # ulps; ONNX Runtime 1.32 was within 0.87 on a CPU


def floor_of(kind: str, threshold: float, limit: int) -> float | None:
    """Return the least accumulator with which a generation may still be answered here.

    The accumulator is the graph's `present.confidence`: by kind the sum, the least or the first of
    what its tokens gave. Under the floor, or where it is NaN, the generation defers whatever
    follows; see `is_certain`.

    Args:
        kind: Name of the confidence.
        threshold: A confidence under it defers; a float32's value.
        limit: The most tokens of the generation, at least 1.

    Returns:
        None for a kind that may rise: there no deferral is certain before the end.
    """
    if kind in _MEANS:
        # sum / count >= threshold needs sum >= threshold * limit, as count <= limit and sum <= 0
        return _lowered(threshold * limit, limit)
    if kind == contract.SUM_LOGPROB:
        return _lowered(threshold, 1)
    if kind in _PROBABILITIES:
        return _least_logarithm(threshold)
    return None


def is_certain(accumulated: float, floor: float | None) -> bool:
    """Return whether a generation defers, whatever its further tokens are."""
    if floor is None or accumulated > 0:  # no such sum: what follows it is not known
        return False
    return not accumulated >= floor


def _lowered(value: float, limit: int) -> float:
    if math.isinf(value):
        return value
    return value - _CLEARANCE * (abs(value) * _ULP + limit * _LEAST)


def _least_logarithm(threshold: float) -> float:
    if threshold < _LEAST_NORMAL:  # a library may take a subnormal number for 0
        return -math.inf
    return math.log(threshold) - _CLEARANCE * _ULP
