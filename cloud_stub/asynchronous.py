"""What asyncio has since Python 3.11, for 3.10 as well, as far as the server uses it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

_T = TypeVar("_T")
LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]

if sys.version_info >= (3, 11):
    from asyncio import TaskGroup, timeout
else:
    from async_timeout import timeout

    class TaskGroup:
        """As asyncio's, but an error of a task is raised as it is, not in a group."""

        def __init__(self) -> None:
            self._tasks: set[asyncio.Task[Any]] = set()
            self._owner: asyncio.Task[Any] | None = None
            self._error: BaseException | None = None

        async def __aenter__(self) -> Self:
            self._owner = asyncio.current_task()
            return self

        async def __aexit__(self, kind: object, error: BaseException | None, _: object) -> None:
            if error is not None:
                self._cancel()
            while self._tasks:
                try:
                    await asyncio.wait(self._tasks)
                except asyncio.CancelledError as again:
                    error = again
                    self._cancel()
            error = self._error or error
            if error is not None:
                raise error

        def create_task(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
            """Start a task; its error cancels the others and the block."""
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._end)
            return task

        def _cancel(self) -> None:
            for task in self._tasks:
                task.cancel()

        def _end(self, task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if task.cancelled() or task.exception() is None or self._error is not None:
                return
            self._error = task.exception()
            self._cancel()
            if self._owner is not None:
                self._owner.cancel()


def run(main: Coroutine[Any, Any, _T], loop_factory: LoopFactory | None) -> _T:
    """Run a coroutine to its end in a new event loop; None stands for asyncio's own kind.

    Before Python 3.11 any factory stands for uvloop's.
    """
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(main)
    elif loop_factory is None:
        return asyncio.run(main)
    else:
        import uvloop

        return uvloop.run(main)


__all__ = ["LoopFactory", "TaskGroup", "run", "timeout"]
