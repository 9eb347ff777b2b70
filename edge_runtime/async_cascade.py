"""The cascade for asyncio: the event loop never waits for a model or a server.

async with AsyncCascade.open("bundle", cloud="localhost:8001") as cascade:
answer = await cascade(image)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

import numpy.typing as npt

from edge_runtime.answer import Answer
from edge_runtime.cascade import Cascade, Input
from edge_runtime.errors import SettingError

_T = TypeVar("_T")


class AsyncCascade:
    """Runs a cascade's calls in threads, at most so many at once; the others wait their turn.

    A call whose task is cancelled before its turn is never made; one that is being made goes on to
    its end, at most to its deadline, and its answer is dropped.

    Args:
        cascade: The cascade; closed with this.
        concurrency: Calls at once.

    Raises:
        SettingError: The concurrency is under 1.
    """

    def __init__(self, cascade: Cascade, *, concurrency: int = 8) -> None:
        if concurrency < 1:
            raise SettingError(f"expected a concurrency of at least 1, got {concurrency}")
        self.cascade = cascade
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="cascade")

    @classmethod
    def open(cls, *arguments: Any, concurrency: int = 8, **settings: Any) -> Self:
        """Open a bundle; arguments and errors are those of `Cascade.open`."""
        return cls(Cascade.open(*arguments, **settings), concurrency=concurrency)

    async def __call__(self, given: Input, *, deadline_s: float | None = None) -> Answer:
        """Answer one input; see `Cascade`."""
        return await self._run(lambda: self.cascade(given, deadline_s=deadline_s))

    async def batch(
        self,
        given: npt.NDArray[Any] | Sequence[Input],
        *,
        deadline_s: float | None = None,
    ) -> list[Answer]:
        """Answer a batch; see `Cascade.batch`."""
        return await self._run(lambda: self.cascade.batch(given, deadline_s=deadline_s))

    async def close(self) -> None:
        """Let the calls that are being made end, then close the cascade."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        await asyncio.to_thread(self.cascade.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, call: Callable[[], _T]) -> _T:
        # Here: the pool of a parent process would take the call and never make it.
        self.cascade.check_usable()
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)
