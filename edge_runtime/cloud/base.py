"""The interface of the larger model behind a cascade, and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class CloudAnswers(NamedTuple):
    """M_L's answers to a batch.

    Attributes:
        prediction: int64 [n], index into the caller's labels.
        label: Class name or text of each row.
        confidence: float32 [n], M_L's own; NaN where a foreign engine reports none.
        request_bytes: Size of the request message.
        compute_s: Compute time that the server reports, at most that of the call; 0 where it
            reports none.
        errors: For each row, why a smaller model on the way answered instead of M_L, else None;
            None where M_L answered all rows.
    """

    prediction: npt.NDArray[np.int64]
    label: list[str]
    confidence: npt.NDArray[np.float32]
    request_bytes: int
    compute_s: float = 0.0
    errors: tuple[str | None, ...] | None = None


class Cloud(Protocol):
    """A larger model: `CloudModel`, `Failover` or `Tier`; safe to share between threads."""

    model: str
    """Name of the model, for records."""
    takes_files: bool
    """Whether pictures may be sent as encoded bytes."""

    @property
    def deadline_s(self) -> float | None:
        """Default time limit of a call in seconds; None where it is not known here."""

    def infer(
        self,
        rows: npt.NDArray[Any],
        *,
        confidences: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None,
        threshold: float | None = None,
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> CloudAnswers:
        """Answer a batch, or raise a `CloudError`, within the deadline."""

    def close(self) -> None:
        """Close the connections."""
