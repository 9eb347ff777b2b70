"""What a cascade asks of whatever stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class CloudAnswers(NamedTuple):
    """What M_L said about a batch.

    Attributes:
        prediction: int64 [n], index into the caller's labels.
        label: Class name of each row.
        confidence: float32 [n], M_L's own; NaN where a foreign engine gives none.
        sent_bytes: Size of the request message.
        compute_s: How long the server says it worked on the request; 0 where it does not say.
        errors: Why a row is not M_L's but that of a smaller model on the way, None for the others;
            None where all rows are M_L's.
    """

    prediction: npt.NDArray[np.int64]
    label: list[str]
    confidence: npt.NDArray[np.float32]
    sent_bytes: int
    compute_s: float = 0.0
    errors: tuple[str | None, ...] | None = None


class Cloud(Protocol):
    """A larger model that answers batches: `CloudModel`, `Failover` or `Tier`; safe for threads."""

    model: str
    """Its name, for records."""
    takes_files: bool
    """Whether it takes pictures as encoded bytes."""

    @property
    def deadline_s(self) -> float | None:
        """Longest wait of a call that names none; None where it is not known here."""

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
        """Let go of connections."""
