"""The user's gain: accuracy and cost of the small model, the large model, and the cascade."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.tables import markdown

_REACHED: Final = 0.95
"""Share of the gap between the models from which on the cascade counts as good as M_L."""
_HEAD: Final = ("", "accuracy", "answered on the device", "median latency", "bytes sent per input")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Accuracy and cost of a cascade and of its two models.

    Attributes:
        small: Accuracy of M_S alone.
        large: Accuracy of M_L alone.
        joint: Accuracy of the cascade at its calibrated threshold.
        edge_share: Share of the inputs that the device answers.
        edge_ms: Median time of an answer from the device.
        cloud_ms: Median time of a deferred call: M_S, network and M_L.
        sent_bytes: Bytes sent to M_L, averaged over all inputs.
        training: Name of M_S's training.
    """

    small: float
    large: float
    joint: float
    edge_share: float
    edge_ms: float
    cloud_ms: float
    sent_bytes: float
    training: str = "tuned"

    @classmethod
    def of(cls, variant: Mapping[str, Any]) -> Outcome:
        """Return the outcome of one column of the results of a demo."""
        figures = {name: figure["value"] for name, figure in variant["figures"].items()}
        return cls(
            small=figures["acc(M_S)"],
            large=figures["acc(M_L)"],
            joint=figures["joint accuracy at threshold"],
            edge_share=1 - figures["deferral ratio"],
            edge_ms=variant["latency"]["edge"]["p50_ms"],
            cloud_ms=variant["latency"]["deferred"]["p50_ms"],
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
        """Render the three ways to answer as a Markdown table, one row each."""
        edge, cloud = _milliseconds(self.edge_ms), _milliseconds(self.cloud_ms)
        deferred = 1 - self.edge_share
        each = f"{self.sent_bytes / deferred:.0f}" if deferred else "-"
        both = f"{edge} on the device, {cloud} from M_L"
        share = percent(self.edge_share)
        return markdown(
            [
                _HEAD,
                ("M_S alone", f"{self.small:.3f}", "100 %", edge, "0"),
                ("M_L alone", f"{self.large:.3f}", "0 %", cloud, each),
                ("the cascade", f"{self.joint:.3f}", share, both, f"{self.sent_bytes:.0f}"),
            ]
        )


def percent(share: float, digits: int = 0) -> str:
    """Return a share in percent."""
    return f"{100 * share:.{digits}f} %"


def _milliseconds(time_ms: float) -> str:
    """Return two significant digits, or a dash where nothing was timed."""
    if math.isnan(time_ms):
        return "-"
    digits = max(0, 1 - math.floor(math.log10(time_ms))) if time_ms > 0 else 0
    return f"{time_ms:.{digits}f} ms"
