"""What comes of asking M_L about rows of a batch, and what each row's answer is then."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Final, NamedTuple

from edge_runtime.answer import Answer, Source
from edge_runtime.cloud.answers import CloudAnswers
from edge_runtime.errors import CloudError

_NO_NUMBER: Final = (
    "the confidence is not a number: the input holds NaN or infinite values, or the model is broken"
)


class Unanswered:
    """Why M_L did not answer, and what M_S's answer is called then."""

    __slots__ = ("reason", "source")

    def __init__(self, source: Source, reason: str) -> None:
        self.source = source
        self.reason = reason

    @classmethod
    def because(cls, error: CloudError) -> Unanswered:
        """Return what an error of the cloud makes of a row."""
        return cls(Source.EDGE_FALLBACK, f"{type(error).__name__}: {error}")


class Divided(NamedTuple):
    """What came of a request that was refused whole and asked again in parts.

    Attributes:
        answered: By place among the rows that were asked: the answers it is among, and where.
        unanswered: By place, those that M_L did not answer; no place is in both.
        compute_s: How long the server says it worked on all parts; 0 where it does not say.
    """

    answered: Mapping[int, tuple[CloudAnswers, int]]
    unanswered: Mapping[int, Unanswered]
    compute_s: float


Outcome = CloudAnswers | Divided | Unanswered


def replaced(small: Answer, outcome: Outcome, place: int) -> Answer:
    """Return the answer that a row gets after M_L was asked.

    Args:
        small: M_S's answer.
        outcome: Of `Asking.ask`.
        place: The row's place among those that M_L was asked.
    """
    if isinstance(outcome, Divided):
        missing = outcome.unanswered.get(place)
        if missing is not None:
            return replaced(small, missing, place)
        outcome, place = outcome.answered[place]
    if isinstance(outcome, Unanswered):
        own = small.error or (_NO_NUMBER if isnan(small.confidence) else None)
        error = outcome.reason if own is None else f"{outcome.reason}; {own}"
        return small._replace(source=outcome.source, error=error)
    return small._replace(
        prediction=int(outcome.prediction[place]),
        label=outcome.label[place],
        source=Source.CLOUD,
        error=None if outcome.errors is None else outcome.errors[place],
    )
