"""Generates the answers of all calls together: prompts join between two tokens, and answers leave.

Continuous batching (Yu et al. 2022, Orca): a short answer does not wait for the long ones that were
there before it, and what ends makes room at once. A prompt is read in pieces, with a token of the
others between two of them, so that a long one does not hold them up, and so that reading it ends
with its caller.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Final, TypeAlias

import numpy as np

from train.models.generation import rows_that_fit
from train.models.language import LanguageModel
from train.models.running_batch import RunningBatch, Step

_PIECE: Final = 256
"""Tokens of prompts that are read at once, about."""
_LEAST_COLUMNS: Final = 32
_UNEVEN: Final = 2
"""How much longer than another a prompt may be that is read together with it."""
_TOGETHER: Final = 16
"""Tokens that are told at once to who does not read along."""
_SIGN_S: Final = 10.0
"""After how long who hears nothing is told that the engine goes on."""
_Told: TypeAlias = "list[Step] | BaseException | None"


class Engine:
    """One thread that generates for all.

    Args:
        lm: The model; nobody else may use it meanwhile.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._inbox: SimpleQueue[_Call | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def steps(
        self,
        prompts: Sequence[list[int]],
        rooms: Sequence[int],
        is_wanted: Callable[[int], bool],
        *,
        is_eager: bool,
    ) -> Iterator[list[Step]]:
        """Yield the tokens of answers as they come; an empty list says that it goes on.

        A row leaves with its end-of-sequence token, with its last token, or once nobody wants it.

        Args:
            prompts: Tokens of n prompts, none empty.
            rooms: The most tokens of each answer, at least 1.
            is_wanted: Told a row, says whether anybody still waits for it.
            is_eager: Whether every token is wanted as it comes.

        Raises:
            Exception: What the model raised; it may be another prompt's fault.
        """
        self._start()
        call = _Call(prompts, rooms, is_wanted, is_eager=is_eager)
        self._inbox.put(call)
        try:
            while (told := call.outbox.get()) is not None:
                if isinstance(told, BaseException):
                    raise told
                yield told
        finally:
            call.is_left = True

    def close(self) -> None:
        """Let the thread end after the next token; what still waits hears no more."""
        self._inbox.put(None)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                # Daemonic: a process that ends must not wait for a model.
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        work = _Work(self._lm)
        while True:
            try:
                call = self._inbox.get(block=not work.is_there)
            except Empty:
                work.go_on()
                continue
            if call is None:
                return
            work.add(call)


class _Call:
    """Prompts that are answered for one caller of the engine."""

    def __init__(
        self,
        prompts: Sequence[list[int]],
        rooms: Sequence[int],
        is_wanted: Callable[[int], bool],
        *,
        is_eager: bool,
    ) -> None:
        self.prompts, self.rooms = prompts, rooms
        self.waiting = deque(range(len(prompts)))
        self.left = len(prompts)
        self.outbox: SimpleQueue[_Told] = SimpleQueue()
        self.is_left = False
        self._is_wanted = is_wanted
        self._most = 1 if is_eager else _TOGETHER
        self._steps: list[Step] = []
        self._told_s = monotonic()

    def is_wanted(self, row: int) -> bool:
        """Return whether anybody waits for a row."""
        return not self.is_left and self._is_wanted(row)

    def tell(self, step: Step) -> None:
        """Say the next tokens of some rows."""
        self._steps.append(step)
        self.left -= int(step.ended.sum())
        if len(self._steps) >= self._most or step.ended.any():
            self._give()
        if not self.left:
            self.outbox.put(None)

    def drop(self, rows: int) -> None:
        """Say that some rows are not generated to their ends: nobody wants them."""
        self.left -= rows
        if rows and not self.left:
            self.outbox.put(None)

    def fail(self, error: BaseException) -> None:
        """Say that nothing more comes, and why."""
        self.is_left, self.left = True, 0
        self.waiting.clear()
        self.outbox.put(error)

    def give_sign(self) -> None:
        """Say what there is, even if it is nothing, to who has heard nothing for long."""
        if monotonic() - self._told_s > _SIGN_S:
            self._give()

    def _give(self) -> None:
        self.outbox.put(self._steps)
        self._steps, self._told_s = [], monotonic()


class _Work:
    """What the engine's thread works on; a row of it is named by a number of its own."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._calls: deque[_Call] = deque()
        self._names: dict[int, tuple[_Call, int]] = {}
        self._next = 0
        self._running: RunningBatch | None = None
        self._reading: RunningBatch | None = None

    @property
    def is_there(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._calls)

    def add(self, call: _Call) -> None:
        """Take a call; its prompts wait for their turn."""
        self._calls.append(call)

    def go_on(self) -> None:
        """Read a piece of what was asked last, and generate a token of each other answer."""
        self._leave()
        try:
            self._read()
        except BaseException as error:  # noqa: BLE001 - the thread is everybody's
            self._fail(self._reading, error)
            self._reading = None
        try:
            if self._running is not None:
                self._tell(self._running.step())
        except BaseException as error:  # noqa: BLE001 - the same
            self._fail(self._running, error)
            self._running = None
        if self._running is not None and not len(self._running):
            self._running = None
        self._calls = deque(call for call in self._calls if call.left > 0)
        for call in self._calls:
            call.give_sign()

    def _leave(self) -> None:
        """Let go of the rows that nobody wants any more."""
        for call in self._calls:
            wanted = deque(row for row in call.waiting if call.is_wanted(row))
            call.drop(len(call.waiting) - len(wanted))
            call.waiting = wanted
        self._reading = self._wanted(self._reading)
        self._running = self._wanted(self._running)

    def _wanted(self, batch: RunningBatch | None) -> RunningBatch | None:
        if batch is None:
            return None
        named = [self._names[name] for name in batch.rows.tolist()]
        going = np.array([call.is_wanted(row) for call, row in named], bool)
        for name, is_going in zip(batch.rows.tolist(), going.tolist(), strict=True):
            if not is_going:
                self._names.pop(name)[0].drop(1)
        batch.keep(going)
        return batch if len(batch) else None

    def _read(self) -> None:
        if self._reading is None:
            self._reading = self._chosen()
        if self._reading is None:
            return
        if self._reading.read(max(_LEAST_COLUMNS, _PIECE // len(self._reading))):
            return
        batch, first = self._reading, self._reading.step()
        self._reading = None
        self._tell(first)
        if not len(batch):
            return
        if self._running is None:
            self._running = batch
        else:
            self._running.join(batch)

    def _chosen(self) -> RunningBatch | None:
        """Begin with prompts that are alike in length, by turns of the calls, as many as fit."""
        rows = [] if self._running is None else self._running.rows.tolist()
        widths = [self._width(*self._names[name]) for name in rows]
        taken: list[tuple[_Call, int]] = []
        while (call := next((c for c in self._calls if c.waiting), None)) is not None:
            row = call.waiting[0]
            widths.append(self._width(call, row))
            # Who does not fit keeps the others waiting as well, or its turn would never come.
            if len(widths) > max(1, rows_that_fit(self._lm.vocabulary, max(widths))):
                break
            if taken and not _are_alike(call.prompts[row], taken[0][0].prompts[taken[0][1]]):
                break
            taken.append((call, call.waiting.popleft()))
            self._calls.remove(call)
            self._calls.append(call)
        if not taken:
            return None
        names = range(self._next, self._next + len(taken))
        self._next += len(taken)
        self._names.update(zip(names, taken, strict=True))
        prompts = [call.prompts[row] for call, row in taken]
        return self._lm.batch(prompts, [call.rooms[row] for call, row in taken], names)

    @staticmethod
    def _width(call: _Call, row: int) -> int:
        return len(call.prompts[row]) + call.rooms[row]

    def _tell(self, step: Step) -> None:
        named = [self._names[name] for name in step.rows.tolist()]
        for call in dict.fromkeys(call for call, _ in named):
            chosen = np.array([of is call for of, _ in named])
            call.tell(step.of(chosen, np.array([row for of, row in named if of is call])))
        for name in step.rows[step.ended].tolist():
            del self._names[name]

    def _fail(self, batch: RunningBatch | None, error: BaseException) -> None:
        """Give up the calls with rows in a batch, or where none is at fault that is known, all."""
        if batch is None:
            self._running = None
            calls = set(self._calls)
        else:
            named = [self._names.pop(name, None) for name in batch.rows.tolist()]
            calls = {found[0] for found in named if found is not None}
        for call in calls:
            call.fail(error)


def _are_alike(prompt: list[int], other: list[int]) -> bool:
    short, long = sorted((len(prompt), len(other)))
    return long <= _UNEVEN * short
