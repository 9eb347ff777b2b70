"""What one model's calls came to: counts and histograms, read by ModelStatistics and /metrics.

Written by the event loop alone, so that a call pays for no lock; a reader in another thread sees
every number whole, but perhaps one of a call that is not yet in the next number.
"""

from __future__ import annotations

from bisect import bisect_left
from enum import StrEnum
from typing import Final

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARES: Final = tuple(step / 20 for step in range(1, 21))
NEPERS: Final = tuple(-step / 4 for step in range(24, -1, -1))
"""Of confidences that are negative entropies; those under the first bound are counted with it."""


class Outcome(StrEnum):
    """How an inference call ended."""

    ANSWERED = "answered"
    SHED = "shed"
    """Refused because too many waited already."""
    EXPIRED = "expired"
    """Its deadline passed, before or while the model worked on it."""
    CANCELLED = "cancelled"
    INVALID = "invalid"
    """Bad input: the caller's fault."""
    FAILED = "failed"
    """The model's fault."""


class Histogram:
    """Counts of values up to each bound, and above the last.

    Attributes:
        bounds: Upper bounds, ascending; a value equal to one is counted under it.
        counts: One a bound, and one for what is over the last; not cumulative.
        sum: Of all values.
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
        """How many values were counted."""
        return sum(self.counts)


class Received:
    """What edges of one contract version say of the inputs they forward.

    Attributes:
        confidence: M_S's confidences, one an input.
        threshold: The threshold it stood under, one a call.
        invalid: Values that were no numbers.
    """

    def __init__(self) -> None:
        bounds = NEPERS + SHARES
        self.confidence = Histogram(bounds)
        self.threshold = Histogram(bounds)
        self.invalid = 0


class Statistics:
    """One model's figures since the server started.

    Attributes:
        outcomes: Calls by how they ended.
        rows: Inputs answered.
        failed_s: Time that calls took which were not answered, together.
        last_unix_s: When the last call was answered; 0 before the first.
        latency: Seconds from the request's last byte to the answer's first, of answered calls.
        queue_wait: Seconds that answered calls waited for the model.
        input_s: Seconds spent on reading and decoding inputs, together.
        output_s: Seconds spent on writing answers, together.
        compute: Seconds that the model worked, one a batch.
        batch_rows: Inputs of each batch.
        batches: By their number of inputs: how many there were, and the seconds they took together.
        received: The cascade's own, by contract version; "unknown" where the caller named none.
        ignored_parameters: Request parameters that had no meaning here.
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
