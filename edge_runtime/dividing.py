"""Asks M_L again about parts of a request that it refused as a whole.

A server refuses a call for one row that it cannot take, say a prompt that is too long. Where it
names such rows the others are asked for together; where it does not, halves are asked for, and of a
half that is refused its halves, so that one bad row among n costs 2 log2 n calls and no other row
its answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edge_runtime.answer import Source
from edge_runtime.cloud.answers import CloudAnswers
from edge_runtime.errors import CloudError, CloudRejectedError
from edge_runtime.outcomes import Divided, Unanswered

Places: TypeAlias = "npt.NDArray[np.intp]"
_NO_BUDGET = "the deferral budget is used up"


class OverBudgetError(Exception):
    """Nothing may be forwarded now."""

    unanswered = Unanswered(Source.EDGE_BUDGET, _NO_BUDGET)


def is_divisible(error: CloudRejectedError, rows: int) -> bool:
    """Return whether there is sense in asking for parts of a request that was refused."""
    return rows > 1 and (error.is_divisible or any(row < rows for row in error.rows))


def most_calls(rows: int) -> int:
    """Return how many further calls a refused request may cost: enough for one bad row anywhere."""
    return 2 + 2 * (rows - 1).bit_length()


def ask_in_parts(
    ask: Callable[[Places], CloudAnswers],
    rows: int,
    error: CloudRejectedError,
    record: Callable[[CloudError], None],
) -> Divided:
    """Ask about the rows of a request that was refused, in parts, within `most_calls`.

    Args:
        ask: Asks about some of the rows, by their places.
        rows: How many there are.
        error: Why all of them together were refused.
        record: Told of every error that leaves rows unanswered.
    """
    found = _Found(record)
    waiting = deque(found.divided(np.arange(rows), error))
    for _ in range(most_calls(rows)):
        if not waiting:
            break
        # The whole breadth first: every round settles all rows but those beside a bad one.
        places = waiting.popleft()
        try:
            found.put(places, ask(places))
        except CloudRejectedError as refused:
            error = refused
            waiting.extend(found.divided(places, refused))
        except CloudError as failed:  # the cloud is gone, or the time is over
            found.leave([places, *waiting], failed)
            waiting.clear()
        except OverBudgetError as over:
            found.left.update(dict.fromkeys(_all([places, *waiting]), over.unanswered))
            waiting.clear()
    found.leave(list(waiting), error)
    return Divided(found.answered, found.left, found.compute_s)


class _Found:
    """What is known of the rows so far."""

    def __init__(self, record: Callable[[CloudError], None]) -> None:
        self.answered: dict[int, tuple[CloudAnswers, int]] = {}
        self.left: dict[int, Unanswered] = {}
        self.compute_s = 0.0
        self._record = record

    def put(self, places: Places, answers: CloudAnswers) -> None:
        """Take the answers of some rows."""
        self.compute_s += answers.compute_s
        for row, place in enumerate(places.tolist()):
            self.answered[place] = answers, row

    def leave(self, parts: list[Places], error: CloudError) -> None:
        """Give rows up."""
        if parts:
            self._record(error)
            self.left.update(dict.fromkeys(_all(parts), Unanswered.because(error)))

    def divided(self, places: Places, error: CloudRejectedError) -> list[Places]:
        """Return the parts of a refused request that may be taken; give up the other rows."""
        named = [row for row in sorted(error.rows) if row < len(places)]
        if named:
            self._record(error)
            for row in named:
                why = CloudRejectedError(error.rows[row])
                self.left[int(places[row])] = Unanswered.because(why)
            rest = np.delete(places, named)
            return [rest] if len(rest) else []
        if error.is_divisible and len(places) > 1:
            return np.array_split(places, 2)
        self.leave([places], error)
        return []


def _all(parts: list[Places]) -> list[int]:
    return [int(place) for part in parts for place in part]
