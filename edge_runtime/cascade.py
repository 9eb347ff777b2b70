"""The cascade: M_S answers on the device, M_L what M_S defers, and M_S again if M_L cannot."""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from edge_runtime import contract, display
from edge_runtime.answer import Answer, Source, Timings
from edge_runtime.cloud.base import Cloud, CloudAnswers
from edge_runtime.cloud.connect import connect
from edge_runtime.edge import Edge, edge_answers, kept_answer, open_edge, run_edge, stream_edge
from edge_runtime.edge_model import GateResult
from edge_runtime.errors import SettingError, UseError
from edge_runtime.escalation import (
    CloudRequest,
    Escalation,
    Fallback,
    Outcome,
    limit_completion,
    merge_answer,
    require_cloud,
)
from edge_runtime.inputs.batches import Batch, ChannelOrder, read_batch, read_single
from edge_runtime.policies.policy import Policy
from edge_runtime.sessions import CPU, Provider
from edge_runtime.stats import Stats

if TYPE_CHECKING:
    from edge_runtime.recording.recorder import Recorder

Input = npt.NDArray[Any] | str | Path
Forward = Literal["original", "model_input"]
_log = logging.getLogger("edge_runtime")
_CLOSED = 0  # process id of a closed cascade


class _Call(NamedTuple):
    """A call in progress."""

    batch: Batch
    request_id: str
    deadline_s: float | None
    start: float


class Cascade:
    """A small model on the device backed by a large one in the cloud.

    Safe to share between threads; not across `fork()`.

    Args:
        edge: The small model.
        cloud: The large model, or None: every deferred input is then an `EDGE_FALLBACK`.
        recorder: Records the deferred inputs that M_L answered; None records nothing.
        policy: Mode, deadlines, budget and drift alarm.
        on_answer: Function that receives every answer before it is returned, in the caller's
            thread; its exceptions are logged and affect no answer.
        concurrency: Number of calls of `submit`, and of calls under a soft deadline, that run at
            once.

    Attributes:
        stats: Counts and latencies by source.

    Raises:
        SettingError: The policy needs a cloud, and there is none.
    """

    def __init__(
        self,
        edge: Edge,
        cloud: Cloud | None = None,
        recorder: Recorder | None = None,
        *,
        policy: Policy | None = None,
        on_answer: Callable[[Answer], None] | None = None,
        concurrency: int = 8,
    ) -> None:
        self.edge = edge
        self.cloud = cloud
        self.recorder = recorder
        self.policy = policy or Policy()
        self.stats = Stats()
        if cloud is None and self.policy.needs_cloud:
            raise SettingError(
                "expected a cloud for mode='cloud_only' or on_cloud_failure='raise', got none: "
                "name its address"
            )
        if concurrency < 1:
            raise SettingError(f"expected a concurrency of at least 1, got {concurrency}")
        self._on_answer = on_answer
        watched = self.policy.mode == "cloud_only", self.policy.drift, on_answer
        self._is_watched = any(one for one in watched)
        self._concurrency = concurrency
        self._lock = threading.Lock()
        self._pools: dict[str, ThreadPoolExecutor] = {}
        # As many calls as run may wait; further callers block instead of filling the memory.
        self._room = threading.Semaphore(2 * concurrency)
        self._escalation = Escalation(
            edge,
            cloud,
            recorder,
            self.policy,
            self.stats,
            lambda call: self._pool("forward").submit(call),
        )
        self._owner = os.getpid()
        self._id_prefix = secrets.token_hex(4)
        self._id_number = itertools.count()

    @classmethod
    def open(
        cls,
        bundle: Path | str,
        *,
        cloud: str | Sequence[str] | Cascade | None = None,
        model: str = contract.DEFAULT_MODEL,
        deadline_s: float = 0.5,
        threshold: float | None = None,
        threads: int | None = None,
        providers: Sequence[Provider] = (CPU,),
        spinning: bool = False,
        arena: bool = True,
        warm_up: bool = True,
        forward: Forward = "original",
        channel_order: ChannelOrder = "rgb",
        record: Recorder | None = None,
        policy: Policy | None = None,
        on_answer: Callable[[Answer], None] | None = None,
        concurrency: int = 8,
        **cloud_options: Any,
    ) -> Cascade:
        """Open a bundle and, if an address is given, a channel to the cloud.

        Args:
            bundle: Folder that `python -m export` wrote.
            cloud: `host:port` of an Open Inference Protocol server, which need not be up; several
                of them, the preferred one first; or another cascade (M_S -> M_M -> M_L), which is
                closed with this one.
            model: The large model's name on the server.
            deadline_s: Time limit for the cloud in one call, in seconds.
            threshold: Replaces the bundle's threshold.
            threads: Threads of one edge run.
            providers: ONNX Runtime's execution providers in order of preference, e.g.
                `("CUDAExecutionProvider", "CPUExecutionProvider")`; one that is not available is
                an error, never a silent fallback.
            spinning: Whether idle threads keep their cores busy, as in `SessionSettings`.
            arena: Whether memory is kept between runs, as in `SessionSettings`.
            warm_up: Whether to run a blank input, so that the first real one is not slow.
            forward: The forwarded input: the `original`, or the graph's own `model_input` (the only
                choice without fused preprocessing).
            channel_order: Order of the channels in arrays of pictures: `bgr` as OpenCV reads them,
                which are turned once for both models. Files and Pillow's pictures know theirs.
            record: Recorder of deferred inputs with M_L's answers, on this device; the cascade
                closes it. None records nothing.
            policy: Mode, deadlines, budget and drift alarm.
            on_answer: Function that receives every answer, as in the class.
            concurrency: Number of concurrent calls, as in the class.
            **cloud_options: Arguments of `CloudModel.open` (foreign engines, security, breaker).

        Raises:
            BundleError: The bundle is missing, damaged or of an unknown contract version.
            SettingError: A setting is out of range or contradicts the bundle.
            CloudMisconfiguredError: A server is up, but certificate, token or protection is wrong.
        """
        edge = open_edge(
            bundle,
            threshold=threshold,
            threads=threads,
            providers=providers,
            spinning=spinning,
            arena=arena,
        )
        edge.reader.take_order(channel_order)
        if warm_up:
            edge.warm_up()
        if record is not None and edge.metadata.input.name == contract.TEXT:
            raise SettingError(
                "expected a bundle of pictures with record: texts cannot be recorded"
            )
        large = connect(
            cloud,
            edge,
            model=model,
            deadline_s=deadline_s,
            forward=forward,
            options=cloud_options,
        )
        return cls(edge, large, record, policy=policy, on_answer=on_answer, concurrency=concurrency)

    def __call__(self, value: Input, *, deadline_s: float | None = None) -> Answer:
        """Answer one input: an array, e.g. uint8 [height, width, 3], a text, or a picture's file.

        The errors are those of `batch`.
        """
        start = perf_counter()
        if os.getpid() != self._owner:
            self._refuse()
        edge = self.edge
        feeds = edge.reader.exact(value)
        if feeds is None:
            batch = read_single(value, edge.reader)
            call = _Call(batch, self._next_id(), deadline_s, start)
            return self._finish(call, *run_edge(edge, batch.rows))[0]
        rows = feeds[edge.metadata.input.name]
        request_id = self._next_id()
        result, fed = run_edge(edge, rows, feeds)
        gated = perf_counter()
        if result.defer.item() or self._is_watched:
            call = _Call(Batch(rows, None), request_id, deadline_s, start)
            return self._finish(call, result, fed)[0]
        # Most calls end here, and every microsecond counts.
        total_s = perf_counter() - start
        timings = Timings(fed - start, gated - fed, 0.0, 0.0, total_s)
        self.stats.record(Source.EDGE, total_s)
        return kept_answer(edge, result, timings, request_id)

    def batch(
        self,
        inputs: npt.NDArray[Any] | Sequence[Input],
        *,
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> list[Answer]:
        """Answer a batch; only the deferred rows are forwarded, in one request.

        Args:
            inputs: Inputs of one size, e.g. uint8 [batch, height, width, 3] or a list of pictures;
                or texts; or picture files (`Path`), which are forwarded unchanged.
            deadline_s: Time limit for the cloud in this call, in seconds.
            request_id: Name of the call in answers and at the server; generated by default.

        Returns:
            One answer per input, in order. A failed cloud does not raise, unless the policy says
            so: the row's source is `EDGE_FALLBACK` and its `error` has the reason.

        Raises:
            InputError: The inputs do not fit the model.
            ShortMemoryError: The device has too little memory for them, and M_L did not answer.
            CloudError: M_L gave no usable answer, and the policy says `on_cloud_failure="raise"`.
            UseError: The cascade is closed, or was opened in another process.
        """
        call = self._start(inputs, deadline_s, request_id)
        return self._finish(call, *run_edge(self.edge, call.batch.rows))

    def stream(self, prompt: str, *, deadline_s: float | None = None) -> Iterator[str | Answer]:
        """Yield M_S's text piece by piece as it is generated, then the final answer.

        If M_L answers instead, the final text replaces the pieces: it is complete, while M_S's
        pieces end early where the deferral is certain. Closing the iterator ends the generation,
        and nothing is forwarded. With `mode="cloud_only"` there are no pieces.

        Args:
            prompt: The prompt.
            deadline_s: Time limit for the cloud, in seconds.

        Raises:
            UseError: M_S generates no text, or the cascade cannot be used, as in `batch`, which
                lists the other errors.
        """
        call = self._start([prompt], deadline_s, None)
        if self.policy.mode == "cloud_only":
            return iter(self.batch([prompt], deadline_s=deadline_s))
        return self._stream(call, stream_edge(self.edge, prompt))

    def _stream(self, call: _Call, pieces: Iterator[str | GateResult]) -> Iterator[str | Answer]:
        for piece in pieces:
            if isinstance(piece, GateResult):
                yield from self._finish(call, piece, call.start)
            else:
                yield piece

    def _start(self, inputs: Any, deadline_s: float | None, request_id: str | None) -> _Call:
        start = perf_counter()
        self.require_usable()
        request_id = request_id or self._next_id()
        return _Call(read_batch(inputs, self.edge.reader), request_id, deadline_s, start)

    def _next_id(self) -> str:
        return f"{self._id_prefix}-{next(self._id_number)}"

    def _finish(self, call: _Call, result: GateResult, fed: float) -> list[Answer]:
        """Send the deferred rows to M_L, and merge and count the answers."""
        gated = perf_counter()
        batch, request_id, deadline_s, start = call
        deferred = result.defer.tolist().count(True)  # faster than a sum on few rows
        if not deferred and self.policy.mode != "cloud_only":
            timings = Timings(fed - start, gated - fed, 0.0, 0.0, perf_counter() - start)
            answers = edge_answers(self.edge, result, timings, request_id)
            self.stats.record(Source.EDGE, timings.total_s, len(answers))
            self._observe(answers, 0)
            return answers
        rows = self._rows_to_forward(result, deferred)
        outcome: Outcome | None = None
        if rows is not None:
            request = CloudRequest(batch, result, rows, request_id, deadline_s, start)
            outcome = self._escalation.send(request)
        if not isinstance(outcome, CloudAnswers):
            result = self.edge.complete(limit_completion(result, rows, outcome), batch.rows)
        end = perf_counter()
        compute_s = 0.0 if isinstance(outcome, Fallback | None) else outcome.compute_s
        wire_s = end - gated - compute_s if rows is not None else 0.0
        timings = Timings(fed - start, gated - fed, wire_s, compute_s, end - start)
        answers = edge_answers(self.edge, result, timings, request_id)
        if rows is not None and outcome is not None:
            for place, row in enumerate(rows.tolist()):
                answers[row] = merge_answer(answers[row], outcome, place)
        if result.short is not None:
            require_cloud(answers, result.short)
        self.stats.record_answers(answers, timings.total_s)
        self._observe(answers, deferred)
        return answers

    def submit(self, value: Input, *, deadline_s: float | None = None) -> Future[Answer]:
        """Answer one input in the background; blocks while many others are in progress."""
        self.require_usable()
        self._room.acquire()
        try:
            future = self._pool("submit").submit(self, value, deadline_s=deadline_s)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        return future

    @property
    def request_bytes(self) -> int:
        """Total size of all answered requests to the cloud."""
        return self._escalation.request_bytes

    def require_usable(self) -> None:
        """Raise a `UseError` if the cascade is closed, or was opened in another process."""
        if os.getpid() != self._owner:
            self._refuse()

    def close(self) -> None:
        """Finish the submitted calls, close the connection to the cloud, write the recordings."""
        if self._owner != os.getpid():
            return  # closed already, or opened by the parent process
        with self._lock:
            submitted = self._pools.pop("submit", None)
        if submitted is not None:
            submitted.shutdown(wait=True)
        self._owner = _CLOSED
        if self.cloud is not None:
            self.cloud.close()
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:  # their calls have ended with the connection
            pool.shutdown(wait=True)
        if self.recorder is not None:
            self.recorder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return display.line("Cascade", self._models())

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return display.table({**self._models(), **self.stats.snapshot().facts()})

    def _models(self) -> dict[str, str | float]:
        large = self.cloud
        at = getattr(large, "address", None)
        return {
            "small": str(self.edge.bundle.path),
            "threshold": self.edge.threshold,
            "large": "none" if large is None else f"{large.model} at {at}" if at else large.model,
        }

    def _rows_to_forward(self, result: GateResult, deferred: int) -> npt.NDArray[np.intp] | None:
        mode = self.policy.mode
        if mode == "cloud_only":
            return np.arange(len(result.defer))
        return np.flatnonzero(result.defer) if deferred and mode == "cascade" else None

    def _observe(self, answers: list[Answer], deferred: int) -> None:
        """Update the drift alarm, and call the callback."""
        drift = self.policy.drift
        if drift is not None and (report := drift.observe(deferred, len(answers))) is not None:
            _log.warning("%s", report.text)
        if self._on_answer is not None:
            for answer in answers:
                try:
                    self._on_answer(answer)
                except Exception:  # noqa: BLE001 - an error of the caller's code affects no answer
                    _log.exception("on_answer failed on %s", answer.request_id)

    def _pool(self, name: str) -> ThreadPoolExecutor:
        with self._lock:
            if self._owner == _CLOSED:
                self._refuse()
            if name not in self._pools:
                self._pools[name] = ThreadPoolExecutor(
                    self._concurrency, thread_name_prefix=f"cascade-{name}"
                )
            return self._pools[name]

    def _refuse(self) -> None:
        if self._owner == _CLOSED:
            raise UseError("expected an open cascade, this one is closed: open another")
        raise UseError(
            f"expected the process {self._owner} that opened this cascade, got {os.getpid()}: its "
            "threads and connections do not survive a fork, open one after it"
        )
