"""Counts and histograms of one model's calls, for ModelStatistics and /metrics.

Only the event loop writes them, so that a call needs no lock. A reader in another thread sees each
number complete, but possibly of a call that the next number does not include yet.
"""

from __future__ import annotations

from bisect import bisect_left
from enum import Enum
from typing import Final

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARES: Final = tuple(step / 20 for step in range(1, 21))
NEPERS: Final = tuple(-step / 4 for step in range(24, -1, -1))
"""For confidences that are negative entropies; values below the first bound count with it."""


class Outcome(str, Enum):
    """The end of an inference call."""

    ANSWERED = "answered"
    SHED = "shed"
    """Refused because too many calls were waiting."""
    EXPIRED = "expired"
    """Past its deadline, before or while the model worked on it."""
    CANCELLED = "cancelled"
    INVALID = "invalid"
    """Bad input: the caller's fault."""
    FAILED = "failed"
    """The model's fault."""

    __str__ = str.__str__


class Histogram:
    """Counts of values up to each bound, and above the last one.

    Attributes:
        bounds: Upper bounds, ascending; a value equal to one counts under it.
        counts: One count per bound, and one for values above the last; not cumulative.
        sum: Sum of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self.counts)


class Received:
    """Figures that edges of one contract version report with the inputs they forward.

    Attributes:
        confidence: M_S's confidences, one per input.
        threshold: The threshold that they did not reach, one per call.
        invalid: Number of values that were not numbers.
    """

    def __init__(self) -> None:
        bounds = NEPERS + SHARES
        self.confidence = Histogram(bounds)
        self.threshold = Histogram(bounds)
        self.invalid = 0


class Statistics:
    """One model's figures since the server started.

    Attributes:
        outcomes: Number of calls by outcome.
        rows: Inputs answered.
        failed_s: Total seconds of calls that were not answered.
        last_unix_s: Time of the last answer; 0 before the first.
        latency: Seconds from the request's last byte to the answer's first, of answered calls.
        queue_wait: Seconds that answered calls waited for the model.
        input_s: Total seconds spent on reading and decoding inputs.
        output_s: Total seconds spent on writing answers.
        compute: Seconds that the model worked, one value per batch.
        batch_rows: Inputs of each batch.
        batches: Number of inputs -> number of batches of that size and their total seconds.
        received: Figures that edges report, by contract version; "unknown" if the caller sent none.
        ignored_parameters: Request parameters without a meaning here.
    """

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(Outcome, 0)
        self.rows = 0
        self.failed_s = 0.0
        self.last_unix_s = 0.0
        self.latency = Histogram(SECONDS)
        self.queue_wait = Histogram(SECONDS)
        self.input_s = 0.0
        self.output_s = 0.0
        self.compute = Histogram(SECONDS)
        self.batch_rows = Histogram(ROWS)
        self.batches: dict[int, tuple[int, float]] = {}
        self.received: dict[str, Received] = {}
        self.ignored_parameters = 0

    def record_batch(self, rows: int, compute_s: float) -> None:
        """Count a batch that the model worked on."""
        self.compute.observe(compute_s)
        self.batch_rows.observe(rows)
        count, total_s = self.batches.get(rows, (0, 0.0))
        self.batches[rows] = count + 1, total_s + compute_s
