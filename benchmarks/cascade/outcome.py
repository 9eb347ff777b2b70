"""The user's gain: accuracy and cost of the small model, the large model, and the cascade."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.tables import markdown

_REACHED: Final = 0.95
"""Share of the gap between the models from which on the cascade counts as good as M_L."""
_HEAD: Final = ("", "accuracy", "mean latency", "p99 latency", "calls", "bytes sent")
_THOUSAND: Final = 1000
Latency = tuple[float, float]
"""Mean and 99th percentile in milliseconds; NaN where it is unknown."""
_UNKNOWN: Final = (math.nan, math.nan)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Accuracy and cost of a cascade and of its two models.

    Attributes:
        small: Accuracy of M_S alone.
        large: Accuracy of M_L alone.
        joint: Accuracy of the cascade at its calibrated threshold.
        edge_share: Share of the inputs that the device answers.
        edge_ms: Median time of an answer from the device.
        edge: Latency of answers from the device.
        deferred: Latency of deferred calls: M_S, network and M_L.
        both: Latency of all calls of the cascade.
        sent_bytes: Bytes sent to M_L, averaged over all inputs.
        training: Name of M_S's training.
    """

    small: float
    large: float
    joint: float
    edge_share: float
    edge_ms: float
    sent_bytes: float
    edge: Latency = _UNKNOWN
    deferred: Latency = _UNKNOWN
    both: Latency = _UNKNOWN
    training: str = "tuned"

    @classmethod
    def of(cls, variant: Mapping[str, Any]) -> Outcome:
        """Return the outcome of one column of the results of a demo."""
        figures = {name: figure["value"] for name, figure in variant["figures"].items()}
        times = {n: (t["mean_ms"], t["p99_ms"]) for n, t in variant["latency"].items()}
        return cls(
            small=figures["acc(M_S)"],
            large=figures["acc(M_L)"],
            joint=figures["joint accuracy at threshold"],
            edge_share=1 - figures["deferral ratio"],
            edge_ms=variant["latency"]["edge"]["p50_ms"],
            edge=times["edge"],
            deferred=times["deferred"],
            both=times["all"],
            sent_bytes=variant["bytes_sent"],
        )

    def sentence(self) -> str:
        """Return the result in one sentence."""
        small, large, joint = (f"{value:.3f}" for value in (self.small, self.large, self.joint))
        if self.large <= self.small:
            return (
                f"M_L is right on {large} of the inputs and M_S on {small}: deferring can only "
                "lose. Take a better M_L."
            )
        if self.joint <= self.small:
            return (
                f"The cascade is right on {joint} of the inputs, no more than M_S alone ({small}): "
                "do not ship it."
            )
        kept = f"answers {percent(self.edge_share)} of the inputs on the device"
        if not math.isnan(self.edge_ms):
            kept += f" in {_milliseconds(self.edge_ms)}"
        if float(joint) > float(large):
            return f"The cascade exceeds M_L's accuracy ({joint}, M_L {large}) and {kept}."
        if self.joint >= self.small + _REACHED * (self.large - self.small):
            return f"The cascade reaches M_L's accuracy ({joint} of {large}) and {kept}."
        return (
            f"The cascade is right on {joint} of the inputs, M_S alone on {small} and M_L alone on "
            f"{large}; it {kept}."
        )

    def table(self) -> str:
        """Render the three ways to answer as a Markdown table; calls and bytes of 1,000 inputs."""
        deferred = 1 - self.edge_share
        each = self.sent_bytes / deferred if deferred else math.nan
        rows = [
            ("M_S alone", self.small, self.edge, 0.0, 0.0),
            ("M_L for everything", self.large, self.deferred, 1.0, each),
            ("the cascade", self.joint, self.both, deferred, self.sent_bytes),
        ]
        return markdown(
            [
                _HEAD,
                *(
                    (name, f"{right:.3f}", *map(_milliseconds, times), *map(_thousand, costs))
                    for name, right, times, *costs in rows
                ),
            ]
        )


def _thousand(each: float) -> str:
    return "-" if math.isnan(each) else f"{_THOUSAND * each:,.0f}"


def percent(share: float, digits: int = 0) -> str:
    """Return a share in percent."""
    return f"{100 * share:.{digits}f} %"


def _milliseconds(time_ms: float) -> str:
    """Return two significant digits, or a dash where nothing was timed."""
    if math.isnan(time_ms):
        return "-"
    digits = max(0, 1 - math.floor(math.log10(time_ms))) if time_ms > 0 else 0
    return f"{time_ms:.{digits}f} ms"
