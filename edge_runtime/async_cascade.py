"""The cascade for asyncio: the event loop never waits for a model or a server.

async with AsyncCascade.open("bundle", cloud="localhost:8001") as cascade:
    answer = await cascade(image)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy.typing as npt

from edge_runtime.answer import Answer
from edge_runtime.cascade import Cascade, Input
from edge_runtime.errors import SettingError

if TYPE_CHECKING:
    from typing_extensions import Self

_T = TypeVar("_T")


class AsyncCascade:
    """Runs the calls of a cascade in a limited number of threads; further calls wait.

    If a task is cancelled before its call has started, the call is never made. A call in progress
    runs to its end, at most to its deadline, and its answer is dropped.

    Args:
        cascade: The cascade; closed with this object.
        concurrency: Number of calls at once.

    Raises:
        SettingError: The concurrency is below 1.
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

    async def __call__(self, value: Input, *, deadline_s: float | None = None) -> Answer:
        """Answer one input; see `Cascade`."""
        return await self._run(lambda: self.cascade(value, deadline_s=deadline_s))

    async def batch(
        self,
        inputs: npt.NDArray[Any] | Sequence[Input],
        *,
        deadline_s: float | None = None,
    ) -> list[Answer]:
        """Answer a batch; see `Cascade.batch`."""
        return await self._run(lambda: self.cascade.batch(inputs, deadline_s=deadline_s))

    async def close(self) -> None:
        """Finish the calls in progress, then close the cascade."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        await asyncio.to_thread(self.cascade.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, call: Callable[[], _T]) -> _T:
        # Checked here: the pool of a parent process would accept the call and never make it.
        self.cascade.require_usable()
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)
