"""The answer of a cascade to one input.

Named tuples instead of dataclasses: every call makes one, and they cost a quarter of the time.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, NamedTuple

from edge_runtime import display
from edge_runtime.contract import CONTRACT_VERSION


class Source(str, Enum):
    """The model that gave an answer, and why."""

    EDGE = "edge"
    """M_S, which was confident enough, or answers everything (`mode="edge_only"`)."""
    CLOUD = "cloud"
    """M_L, because M_S deferred, or because M_L answers everything (`mode="cloud_only"`)."""
    EDGE_FALLBACK = "edge_fallback"
    """M_S, which deferred, because M_L gave no usable answer; `Answer.error` has the reason."""
    EDGE_BUDGET = "edge_budget"
    """M_S, which deferred, because the deferral budget is used up."""

    __str__ = str.__str__


class Timings(NamedTuple):
    """Time spent in the parts of a call, in seconds; the rows of a batch share one.

    Attributes:
        preprocess_s: Building a batch from the inputs, e.g. tokenizing texts.
        edge_s: The small model's graph: its own preprocessing, model and gate.
        wire_s: The round trip to the large model without its compute time: encoding, link, queue,
            decoding. The whole round trip where the server does not report its compute time. 0
            when nothing was forwarded.
        cloud_s: Compute time of the large model; 0 when nothing was forwarded or the server does
            not report it.
        total_s: The whole call.
    """

    preprocess_s: float
    edge_s: float
    wire_s: float
    cloud_s: float
    total_s: float


class Answer(NamedTuple):
    """The answer to one input.

    Attributes:
        prediction: Class index in the small model's label order; -1 where the answer is text.
        label: Class name, or the text of a language model.
        confidence: The small model's confidence g(x); higher is surer.
        deferred: Whether the gate deferred the input to the large model.
        source: The model that answered.
        timings: Time spent in the parts of the call.
        request_id: Name of the call, here and in the server's log; rows of a batch share it.
        threshold: The threshold that the confidence was compared with.
        error: Why the answer is not from the model that should have given it, else None.
        contract_version: Version of the gate contract.
    """

    prediction: int
    label: str
    confidence: float
    deferred: bool
    source: Source
    timings: Timings
    request_id: str
    threshold: float
    error: str | None = None
    contract_version: int = CONTRACT_VERSION

    @property
    def text(self) -> str:
        """The text of a language model, or the class name."""
        return self.label

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that `json.dumps` takes: NaN and infinities are None."""
        fields = {**self._asdict(), "source": str(self.source), "timings": self.timings._asdict()}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in fields.items()
        }

    def __repr__(self) -> str:
        return display.line("Answer", self._facts())

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return display.table(self._facts())

    def _facts(self) -> dict[str, str | float]:
        facts: dict[str, str | float] = {
            "label": self.label,
            "confidence": self.confidence,
            "threshold": self.threshold,
            "source": str(self.source),
            "total_ms": self.timings.total_s * 1e3,
        }
        return facts if self.error is None else {**facts, "error": self.error}
