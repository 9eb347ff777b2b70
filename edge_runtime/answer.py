"""What a cascade answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Source(StrEnum):
    """Who gave the answer."""

    EDGE = "edge"
    """M_S, which was sure enough."""
    CLOUD = "cloud"
    """M_L, because M_S deferred."""
    EDGE_FALLBACK = "edge_fallback"
    """M_S, which deferred, because M_L gave no usable answer; the reason is in `Answer.error`."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a call went, in seconds; the rows of a batch share one.

    Attributes:
        edge_s: The small model's graph: preprocessing, model and gate.
        cloud_s: The round trip to the large model; 0 when nothing was forwarded.
        total_s: The whole call.
    """

    edge_s: float
    cloud_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One input's answer.

    Attributes:
        prediction: Class index in the small model's label order.
        label: Class name.
        confidence: The small model's confidence g(x); higher is surer.
        deferred: Whether the gate asked for the large model.
        source: Who answered.
        timings: Where the time went.
        error: Why a deferred input was answered by the small model, else None.
    """

    prediction: int
    label: str
    confidence: float
    deferred: bool
    source: Source
    timings: Timings
    error: str | None = None
