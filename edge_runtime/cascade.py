"""The cascade: M_S answers what it is sure of, M_L the rest, M_S again when M_L is out of reach."""

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

from edge_runtime import contract
from edge_runtime.answer import Answer, Source, Timings
from edge_runtime.cloud.base import Cloud, CloudAnswers
from edge_runtime.cloud.connect import connect
from edge_runtime.edge import Edge, open_edge
from edge_runtime.edge_model import Gated
from edge_runtime.errors import BundleError, SettingError, UseError
from edge_runtime.escalation import Asking, Divided, Outcome, Question, Unanswered, replaced
from edge_runtime.inputs import Batch, read_batch
from edge_runtime.policies.policy import Policy
from edge_runtime.sessions import CPU, Provider
from edge_runtime.stats import Stats

if TYPE_CHECKING:
    from edge_runtime.recording.recorder import Recorder

Input = npt.NDArray[Any] | str | Path
Forward = Literal["original", "model_input"]
_log = logging.getLogger("edge_runtime")
_NOBODY = 0
"""Process id of a cascade that was closed."""


class _Begun(NamedTuple):
    """A call under way."""

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
        recorder: Keeps the deferred inputs that M_L answered; None keeps nothing.
        policy: Whom to ask, for how long, and what it may cost.
        on_answer: Is given every answer before it is returned, in the caller's thread; what it
            raises is logged and costs no answer.
        concurrency: Calls of `submit`, and calls under a soft deadline, that run at once.

    Attributes:
        stats: Counts and latencies by who answered.

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
        self._concurrency = concurrency
        self._lock = threading.Lock()
        self._pools: dict[str, ThreadPoolExecutor] = {}
        # As many as run may wait: who submits more waits in line instead of filling the memory.
        self._room = threading.Semaphore(2 * concurrency)
        self._asking = Asking(
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
        record: Recorder | None = None,
        policy: Policy | None = None,
        on_answer: Callable[[Answer], None] | None = None,
        concurrency: int = 8,
        **cloud_options: Any,
    ) -> Cascade:
        """Open a bundle and, where an address is given, a channel to the cloud.

        Args:
            bundle: Folder that `python -m export` wrote.
            cloud: `host:port` of an Open Inference Protocol server, which need not be up; several
                of them, the preferred one first; or another cascade (M_S -> M_M -> M_L), which is
                closed with this one.
            model: The large model's name there.
            deadline_s: Longest wait for the cloud in one call, in seconds.
            threshold: Overrides the bundle's threshold.
            threads: Threads of one edge run.
            providers: ONNX Runtime's execution providers, in order of preference, for example
                `("CUDAExecutionProvider", "CPUExecutionProvider")`; one that is not to be had is
                an error, never a silent fall back.
            spinning: Whether idle threads keep their cores busy; see `SessionSettings`.
            arena: Whether memory is kept between runs; see there.
            warm_up: Run a blank input once, so that the first real one is as fast as the others.
            forward: What the cloud gets: the `original` input, or the graph's own `model_input`
                (the only one there is when preprocessing is not fused).
            record: Keeps, on this device, the deferred inputs with M_L's answers; off where none is
                given. It belongs to the cascade, which closes it.
            policy: Whom to ask, for how long, and what it may cost.
            on_answer: See the class.
            concurrency: See the class.
            **cloud_options: Passed to `CloudModel.open` (foreign engines, security, breaker).

        Raises:
            BundleError: The bundle is missing, damaged or of an unknown contract version.
            SettingError: A setting is out of range or contradicts the bundle.
            CloudMisconfiguredError: A server is there, and certificate, token or protection do not
                fit.
        """
        edge = open_edge(
            bundle,
            threshold=threshold,
            threads=threads,
            providers=providers,
            spinning=spinning,
            arena=arena,
        )
        if warm_up:
            edge.warm_up()
        if record is not None and edge.metadata.input.name == contract.TEXT:
            raise SettingError("expected a bundle of pictures with record: no texts are kept yet")
        behind = connect(
            cloud,
            edge,
            model=model,
            deadline_s=deadline_s,
            forward=forward,
            options=cloud_options,
        )
        return cls(
            edge,
            behind,
            record,
            policy=policy,
            on_answer=on_answer,
            concurrency=concurrency,
        )

    def __call__(self, given: Input, *, deadline_s: float | None = None) -> Answer:
        """Answer one input: an array, e.g. uint8 [height, width, 3], a text, or a picture's file.

        See `batch` for the errors.
        """
        one = [given] if isinstance(given, Path) else self.edge.intake.one(given)
        return self.batch(one, deadline_s=deadline_s)[0]

    def batch(
        self,
        given: npt.NDArray[Any] | Sequence[Input],
        *,
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> list[Answer]:
        """Answer a batch; only the deferred rows are forwarded, in one request.

        Args:
            given: Inputs of one size, e.g. uint8 [batch, height, width, 3] or a list of pictures;
                or texts; or picture files (`Path`), which are forwarded as they are.
            deadline_s: Longest wait for the cloud in this call, in seconds.
            request_id: Names the call in answers and at the server; made up when not given.

        Returns:
            One answer an input, in order. A failed cloud does not raise, unless the policy says so:
            the row's source is `EDGE_FALLBACK` and its `error` says why.

        Raises:
            InputError: The inputs do not fit the model.
            CloudError: M_L gave no usable answer, and the policy says `on_cloud_failure="raise"`.
            UseError: The cascade is closed, or was opened in another process.
        """
        begun = self._begun(given, deadline_s, request_id)
        feeds = self.edge.intake.feeds(begun.batch.rows)
        fed = perf_counter()
        return self._settled(begun, self.edge.run(begun.batch.rows, feeds), fed)

    def stream(self, prompt: str, *, deadline_s: float | None = None) -> Iterator[str | Answer]:
        """Yield M_S's text piece by piece as it comes, and at last the answer with the verdict.

        Where M_L answers instead, the answer's text replaces what was yielded: it is whole, and
        ends early on M_S's side where the deferral is certain. Leaving the iterator ends the
        generation, and nothing is forwarded. With `mode="cloud_only"` there are no pieces.

        Args:
            prompt: The text.
            deadline_s: Longest wait for the cloud, in seconds.

        Raises:
            UseError: M_S gives no text; or see `batch`, for the other errors as well.
        """
        begun = self._begun([prompt], deadline_s, None)
        if self.policy.mode == "cloud_only":
            return iter(self.batch([prompt], deadline_s=deadline_s))
        return self._streamed(begun, self.edge.stream(prompt))

    def _streamed(self, begun: _Begun, said: Iterator[str | Gated]) -> Iterator[str | Answer]:
        for piece in said:
            if isinstance(piece, Gated):
                yield from self._settled(begun, piece, begun.start)
            else:
                yield piece

    def _begun(self, given: Any, deadline_s: float | None, request_id: str | None) -> _Begun:
        start = perf_counter()
        self.check_usable()
        request_id = request_id or f"{self._id_prefix}-{next(self._id_number)}"
        return _Begun(read_batch(given, self.edge.intake), request_id, deadline_s, start)

    def _settled(self, begun: _Begun, gated: Gated, fed: float) -> list[Answer]:
        """Ask M_L for what M_S defers, and count the answers."""
        batch, request_id, deadline_s, start = begun
        gate_s = perf_counter()
        defer: list[bool] = gated.defer.tolist()
        deferred = defer.count(True)
        asked = self._asked(gated, deferred)
        outcome: Outcome | None = None
        if asked is not None:
            outcome = self._asking.ask(Question(batch, gated, asked, request_id, deadline_s, start))
        if not isinstance(outcome, CloudAnswers):
            gated = self.edge.finished(_limited(gated, asked, outcome), batch.rows)
        end = perf_counter()
        compute_s = 0.0 if isinstance(outcome, Unanswered | None) else outcome.compute_s
        wire_s = end - gate_s - compute_s if asked is not None else 0.0
        timings = Timings(fed - start, gate_s - fed, wire_s, compute_s, end - start)
        answers = self._edge_answers(gated, defer, timings, request_id)
        if asked is not None and outcome is not None:
            for place, row in enumerate(asked.tolist()):
                answers[row] = replaced(answers[row], outcome, place)
        self._count(answers, deferred, timings.total_s)
        return answers

    def submit(self, given: Input, *, deadline_s: float | None = None) -> Future[Answer]:
        """Answer one input in the background; waits while many others are under way.

        Raises:
            UseError: The cascade is closed, or was opened in another process.
        """
        self.check_usable()
        self._room.acquire()
        try:
            future = self._pool("submit").submit(self, given, deadline_s=deadline_s)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        return future

    @property
    def sent_bytes(self) -> int:
        """Size of all answered requests to the cloud."""
        return self._asking.sent_bytes

    def check_usable(self) -> None:
        """Do nothing in the process that opened it, while it is open.

        Raises:
            UseError: The cascade is closed, or was opened in another process.
        """
        if os.getpid() != self._owner:
            self._refuse()

    def close(self) -> None:
        """Let submitted calls end, close the way to the cloud, write what was recorded."""
        if self._owner != os.getpid():
            return  # closed already, or the parent's to close
        with self._lock:
            submitted = self._pools.pop("submit", None)
        if submitted is not None:
            submitted.shutdown(wait=True)
        self._owner = _NOBODY
        if self.cloud is not None:
            self.cloud.close()
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:  # their calls have ended with the way to the cloud
            pool.shutdown(wait=True)
        if self.recorder is not None:
            self.recorder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _asked(self, gated: Gated, deferred: int) -> npt.NDArray[np.intp] | None:
        """Return the rows that M_L is to answer, or None."""
        mode = self.policy.mode
        if mode == "cloud_only":
            return np.arange(len(gated.defer))
        if not deferred or mode == "edge_only":
            return None
        return np.flatnonzero(gated.defer)

    def _edge_answers(
        self, gated: Gated, defer: list[bool], timings: Timings, request_id: str
    ) -> list[Answer]:
        threshold = self.edge.threshold
        if gated.texts is not None:
            nothing, source = contract.NO_CLASS, Source.EDGE
            reasons = gated.reasons or [None] * len(defer)
            rows = zip(gated.texts, gated.confidence.tolist(), defer, reasons, strict=True)
            return [
                Answer(nothing, text, g, d, source, timings, request_id, threshold, reason)
                for text, g, d, reason in rows
            ]
        labels = self.edge.labels
        columns = zip(gated.prediction.tolist(), gated.confidence.tolist(), defer, strict=True)
        try:
            return [
                Answer(p, labels[p], g, d, Source.EDGE, timings, request_id, threshold)
                for p, g, d in columns
            ]
        except IndexError:
            raise BundleError(
                f"expected predictions below {len(labels)}, the number of labels, the graph gave "
                f"{int(gated.prediction.max())}: export the bundle again"
            ) from None

    def _count(self, answers: list[Answer], deferred: int, total_s: float) -> None:
        """Tell statistics, drift alarm and callback."""
        if not deferred and self.policy.mode != "cloud_only":
            self.stats.record(Source.EDGE, total_s, len(answers))
        elif len(answers) == 1:
            self.stats.record(answers[0].source, total_s, deferred=deferred)
        else:
            by_source: dict[Source, list[bool]] = {}
            for answer in answers:
                by_source.setdefault(answer.source, []).append(answer.deferred)
            for source, flags in by_source.items():
                self.stats.record(source, total_s, len(flags), deferred=sum(flags))
        drift = self.policy.drift
        if drift is not None and (report := drift.observe(deferred, len(answers))) is not None:
            _log.warning("%s", report.text)
        if self._on_answer is not None:
            for answer in answers:
                try:
                    self._on_answer(answer)
                except Exception:  # noqa: BLE001 - it is the caller's code, and his answer is due
                    _log.exception("on_answer failed on %s", answer.request_id)

    def _pool(self, name: str) -> ThreadPoolExecutor:
        with self._lock:
            if self._owner == _NOBODY:
                self._refuse()
            if name not in self._pools:
                self._pools[name] = ThreadPoolExecutor(
                    self._concurrency, thread_name_prefix=f"cascade-{name}"
                )
            return self._pools[name]

    def _refuse(self) -> None:
        if self._owner == _NOBODY:
            raise UseError("expected an open cascade, this one is closed: open another")
        raise UseError(
            f"expected the process {self._owner} that opened this cascade, got {os.getpid()}: its "
            "threads and connections do not outlive a fork, open one after it"
        )


def _limited(gated: Gated, asked: npt.NDArray[np.intp] | None, outcome: Outcome | None) -> Gated:
    """Return what M_S says, unfinished only where it is M_S's to finish."""
    if not isinstance(outcome, Divided) or asked is None or gated.unfinished is None:
        return gated
    fallen = np.zeros_like(gated.unfinished)
    fallen[asked[list(outcome.unanswered)]] = True
    return gated._replace(unfinished=gated.unfinished & fallen)
