"""One inference call, from its arrival to its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Hashable, Mapping
from math import inf
from time import monotonic
from typing import Any, NamedTuple

from cloud_stub.backends.backend import Column, Outputs


class Result(NamedTuple):
    """What became of a call.

    Attributes:
        outputs: Its rows of the model's outputs.
        compute_s: Seconds that the model worked on the batch it was in.
    """

    outputs: Outputs
    compute_s: float


class Job:
    """A call that waits for a worker or is worked on.

    Args:
        inputs: By name.
        rows: How many.
        key: Jobs of one key can be worked on together; None: only alone.
        client: Whose it is; clients take turns.
        deadline: When the caller gives up, on the clock of `time.monotonic`.
        on_part: Is given every part of an answer that comes bit by bit, in the worker's thread.

    Attributes:
        queue_s: Seconds it waited, once it is taken.
        has_parts: Whether `on_part` was given any.
        heard: When its batch last gave a sign of life, on the clock of `time.monotonic`.
    """

    __slots__ = (
        "arrived",
        "client",
        "deadline",
        "future",
        "has_parts",
        "heard",
        "inputs",
        "key",
        "on_part",
        "queue_s",
        "rows",
    )

    def __init__(
        self,
        inputs: Mapping[str, Column],
        rows: int,
        *,
        key: Hashable,
        client: str,
        deadline: float = inf,
        on_part: Callable[[Outputs], None] | None = None,
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.key = key
        self.client = client
        self.deadline = deadline
        self.on_part = on_part
        self.has_parts = False
        self.heard = 0.0
        self.arrived = monotonic()
        self.queue_s = 0.0
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def settle(self, ended: Result | Exception) -> None:
        """Answer it from a worker's thread, before its batch has ended."""
        # Without a loop nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self.future.get_loop().call_soon_threadsafe(self._settle, ended)

    def _settle(self, ended: Result | Exception) -> None:
        if self.future.done():
            return
        if isinstance(ended, Exception):
            self.future.set_exception(ended)
        else:
            self.future.set_result(ended)

    def is_wanted(self) -> bool:
        """Whether somebody waits for the answer: it was not given, nor its caller gone."""
        return not self.future.done()
