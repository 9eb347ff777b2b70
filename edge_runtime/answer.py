"""What a cascade answers.

Named tuples and no dataclasses: one is made for every call, and these cost a quarter of the time.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from edge_runtime.contract import CONTRACT_VERSION


class Source(StrEnum):
    """Who gave the answer."""

    EDGE = "edge"
    """M_S, which was sure enough, or was told to answer everything (`mode="edge_only"`)."""
    CLOUD = "cloud"
    """M_L, because M_S deferred, or because M_L was to answer everything (`mode="cloud_only"`)."""
    EDGE_FALLBACK = "edge_fallback"
    """M_S, which deferred, because M_L gave no usable answer; the reason is in `Answer.error`."""
    EDGE_BUDGET = "edge_budget"
    """M_S, which deferred, because the deferral budget is used up."""


class Timings(NamedTuple):
    """Where the time of a call went, in seconds; the rows of a batch share one.

    Attributes:
        preprocess_s: Making a batch of the inputs, e.g. tokenizing texts.
        edge_s: The small model's graph: its own preprocessing, model and gate.
        wire_s: The round trip to the large model without the time it worked: encoding, link,
            waiting there, decoding. All of the round trip where the server does not say how long it
            worked. 0 when nothing was forwarded.
        cloud_s: How long the large model worked; 0 when nothing was forwarded or it does not say.
        total_s: The whole call.
    """

    preprocess_s: float
    edge_s: float
    wire_s: float
    cloud_s: float
    total_s: float


class Answer(NamedTuple):
    """One input's answer.

    Attributes:
        prediction: Class index in the small model's label order; -1 where the answer is text.
        label: Class name, or the text that a language model says.
        confidence: The small model's confidence g(x); higher is surer.
        deferred: Whether the gate asked for the large model.
        source: Who answered.
        timings: Where the time went.
        request_id: Names the call, here and in the server's log; rows of a batch share it.
        threshold: What the confidence was compared with.
        error: Why the answer is not the one of the model that should have given it, else None.
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
        """What was answered, in words: of a language model its text, else the class name."""
        return self.label

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for a log or a reply; a confidence may be NaN."""
        return {**self._asdict(), "source": str(self.source), "timings": self.timings._asdict()}
