"""Generates the answers of all calls together: prompts join, and answers leave, between two tokens.

Continuous batching (Yu et al. 2022, Orca): a short answer does not wait for the long ones before
it, and an answer that ends makes room at once. A prompt is read in pieces, and the other answers
advance by one token between two pieces, so that a long prompt does not block them. Reading stops
when the prompt's caller leaves.
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
"""Largest ratio between the lengths of prompts that are read together."""
_TOGETHER: Final = 16
"""Tokens sent at once to callers that do not stream."""
_HEARTBEAT_S: Final = 10.0
"""Silence after which a waiting caller gets a sign that the engine is alive."""
_Message: TypeAlias = "list[Step] | BaseException | None"


class Engine:
    """One thread that generates for all callers.

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
        limits: Sequence[int],
        is_wanted: Callable[[int], bool],
        *,
        is_eager: bool,
    ) -> Iterator[list[Step]]:
        """Yield the tokens of the answers as they are generated; an empty list is a sign of life.

        A row leaves with its end-of-sequence token, with its last token, or once it is unwanted.

        Args:
            prompts: Tokens of n prompts, none empty.
            limits: The most tokens of each answer, at least 1.
            is_wanted: Function of a row that returns whether anyone is still waiting for it.
            is_eager: Whether to yield every token at once.

        Raises:
            Exception: An error of the model; another prompt may have caused it.
        """
        self._start()
        call = _Call(prompts, limits, is_wanted, is_eager=is_eager)
        self._inbox.put(call)
        try:
            while (message := call.outbox.get()) is not None:
                if isinstance(message, BaseException):
                    raise message
                yield message
        finally:
            call.is_abandoned = True

    def close(self) -> None:
        """End the thread after the next token; calls that are still waiting get no more."""
        self._inbox.put(None)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                # Daemonic: a process that ends must not wait for a model.
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        schedule = _Schedule(self._lm)
        while True:
            try:
                call = self._inbox.get(block=not schedule.has_work)
            except Empty:
                schedule.advance()
                continue
            if call is None:
                return
            schedule.add(call)


class _Call:
    """Prompts of one caller of the engine, and the way back to it."""

    def __init__(
        self,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        is_wanted: Callable[[int], bool],
        *,
        is_eager: bool,
    ) -> None:
        self.prompts, self.limits = prompts, limits
        self.waiting = deque(range(len(prompts)))
        self.unfinished = len(prompts)
        self.outbox: SimpleQueue[_Message] = SimpleQueue()
        self.is_abandoned = False
        self._is_wanted = is_wanted
        self._most = 1 if is_eager else _TOGETHER
        self._steps: list[Step] = []
        self._sent_s = monotonic()

    def is_wanted(self, row: int) -> bool:
        """Return whether anyone is waiting for a row."""
        return not self.is_abandoned and self._is_wanted(row)

    def width(self, row: int) -> int:
        """Return the most tokens that a row can have, prompt and answer together."""
        return len(self.prompts[row]) + self.limits[row]

    def emit(self, step: Step) -> None:
        """Add the next tokens of some rows; send them when they are enough or a row has ended."""
        self._steps.append(step)
        self.unfinished -= int(step.ended.sum())
        if len(self._steps) >= self._most or step.ended.any():
            self._send()
        if not self.unfinished:
            self.outbox.put(None)

    def drop(self, rows: int) -> None:
        """Give up some rows that are unwanted."""
        self.unfinished -= rows
        if rows and not self.unfinished:
            self.outbox.put(None)

    def fail(self, error: BaseException) -> None:
        """End the call with an error."""
        self.is_abandoned, self.unfinished = True, 0
        self.waiting.clear()
        self.outbox.put(error)

    def send_heartbeat(self) -> None:
        """Send the tokens so far, even if there are none, after a long silence."""
        if monotonic() - self._sent_s > _HEARTBEAT_S:
            self._send()

    def _send(self) -> None:
        self.outbox.put(self._steps)
        self._steps, self._sent_s = [], monotonic()


class _Schedule:
    """The calls of the engine's thread; each of their rows gets a number as its name."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._calls: deque[_Call] = deque()
        self._names: dict[int, tuple[_Call, int]] = {}
        self._next = 0
        self._running: RunningBatch | None = None
        self._readings: deque[RunningBatch] = deque()

    @property
    def has_work(self) -> bool:
        """True while there are calls."""
        return bool(self._calls)

    def add(self, call: _Call) -> None:
        """Take a call; its prompts wait for their turn."""
        self._calls.append(call)

    def advance(self) -> None:
        """Read a piece of the prompts whose turn it is, and a token of every running answer."""
        self._remove_unwanted()
        try:
            self._read()
        except BaseException as error:  # noqa: BLE001 - the thread serves all calls
            self._fail(None, error)
        try:
            if self._running is not None:
                self._emit(self._running.step())
        except BaseException as error:  # noqa: BLE001 - as above
            self._fail(self._running, error)
            self._running = None
        if self._running is not None and not len(self._running):
            self._running = None
        self._calls = deque(call for call in self._calls if call.unfinished > 0)
        for call in self._calls:
            call.send_heartbeat()

    def _remove_unwanted(self) -> None:
        for call in self._calls:
            wanted = deque(row for row in call.waiting if call.is_wanted(row))
            call.drop(len(call.waiting) - len(wanted))
            call.waiting = wanted
        kept = map(self._keep_wanted, self._readings)
        self._readings = deque(batch for batch in kept if batch is not None)
        self._running = self._keep_wanted(self._running)

    def _keep_wanted(self, batch: RunningBatch | None) -> RunningBatch | None:
        if batch is None:
            return None
        pairs = [self._names[name] for name in batch.rows.tolist()]
        wanted = np.array([call.is_wanted(row) for call, row in pairs], bool)
        for name, is_wanted in zip(batch.rows.tolist(), wanted.tolist(), strict=True):
            if not is_wanted:
                self._names.pop(name)[0].drop(1)
        batch.keep(wanted)
        return batch if len(batch) else None

    def _read(self) -> None:
        """Read a piece of some prompts; the prompts of different calls take turns."""
        begun = self._next_prompts()
        if begun is not None:
            self._readings.append(begun)
        if not self._readings:
            return
        batch = self._readings.popleft()
        try:
            if batch.read(max(_LEAST_COLUMNS, _PIECE // len(batch))):
                self._readings.append(batch)
                return
            first = batch.step()
        except BaseException as error:  # noqa: BLE001 - only these calls are affected
            self._fail(batch, error)
            return
        self._emit(first)
        if not len(batch):
            return
        if self._running is None:
            self._running = batch
        else:
            self._running.join(batch)

    def _next_prompts(self) -> RunningBatch | None:
        """Begin as many prompts of similar length as fit, the calls taking turns.

        A call's next prompts wait until those that are being read are done.
        """
        running = [] if self._running is None else [self._running]
        batches = [batch.rows.tolist() for batch in (*running, *self._readings)]
        widths = [call.width(row) for rows in batches for call, row in map(self._of, rows)]
        reading = {self._of(name)[0] for batch in self._readings for name in batch.rows.tolist()}
        taken: list[tuple[_Call, int]] = []
        free = [call for call in self._calls if call not in reading]
        while (call := next((c for c in free if c.waiting), None)) is not None:
            row = call.waiting[0]
            widths.append(call.width(row))
            # A prompt that does not fit also holds back the others, or its turn would never come.
            if len(widths) > max(1, rows_that_fit(self._lm.vocabulary, max(widths))):
                break
            if taken and not _are_similar(call.prompts[row], taken[0][0].prompts[taken[0][1]]):
                break
            taken.append((call, call.waiting.popleft()))
            for calls in (free, self._calls):
                calls.remove(call)
                calls.append(call)
        if not taken:
            return None
        names = range(self._next, self._next + len(taken))
        self._next += len(taken)
        self._names.update(zip(names, taken, strict=True))
        prompts = [call.prompts[row] for call, row in taken]
        return self._lm.batch(prompts, [call.limits[row] for call, row in taken], names)

    def _of(self, name: int) -> tuple[_Call, int]:
        return self._names[name]

    def _emit(self, step: Step) -> None:
        pairs = [self._names[name] for name in step.rows.tolist()]
        for call in dict.fromkeys(call for call, _ in pairs):
            chosen = np.array([owner is call for owner, _ in pairs])
            rows = np.array([row for owner, row in pairs if owner is call])
            call.emit(step.of(chosen, rows))
        for name in step.rows[step.ended].tolist():
            del self._names[name]

    def _fail(self, batch: RunningBatch | None, error: BaseException) -> None:
        """End the calls with rows in a batch, or all calls if no batch is known to be at fault."""
        if batch is None:
            self._running = None
            self._readings.clear()
            calls = set(self._calls)
        else:
            pairs = [self._names.pop(name, None) for name in batch.rows.tolist()]
            calls = {pair[0] for pair in pairs if pair is not None}
        for call in calls:
            call.fail(error)


def _are_similar(prompt: list[int], other: list[int]) -> bool:
    short, long = sorted((len(prompt), len(other)))
    return long <= _UNEVEN * short
