"""The cascade: M_S answers on the device, M_L what M_S defers, and M_S again if M_L cannot."""

from __future__ import annotations

import itertools
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy.typing as npt

from edge_runtime import contract, display
from edge_runtime.answer import Answer, Source, Timings
from edge_runtime.calls.ending import Call, CallEnd
from edge_runtime.calls.pools import CLOSED, Pools
from edge_runtime.cloud.base import Cloud
from edge_runtime.cloud.connect import connect
from edge_runtime.cloud.outgoing import Compression, Encoding, Outgoing
from edge_runtime.edge import Edge, kept_answer, open_edge, run_edge, stream_edge
from edge_runtime.edge_model import GateResult
from edge_runtime.errors import SettingError, UseError
from edge_runtime.escalation import (
    Escalation,
)
from edge_runtime.inputs.batches import Batch, ChannelOrder, read_batch, read_single
from edge_runtime.policies.policy import Policy
from edge_runtime.sessions import CPU, Provider
from edge_runtime.stats import Stats

if TYPE_CHECKING:
    from typing_extensions import Self

    from edge_runtime.recording.recorder import Recorder

Input = Any
"""One input in any form that `Cascade.batch` names; what is none is an `InputError`."""
Forward = Literal["original", "model_input"]
_log = logging.getLogger("edge_runtime")
_EDGE: Final = Source.EDGE  # looked up once: that takes as long as a count
_CLOSED = 0  # process id of a closed cascade


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
        outgoing: How deferred pictures are encoded, and the limit of a message.

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
        outgoing: Outgoing | None = None,
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
        watched = self.policy.mode == "cloud_only", self.policy.drift, on_answer
        self._is_watched = any(one for one in watched)
        self._pools = Pools(concurrency)
        self._escalation = Escalation(
            edge,
            cloud,
            recorder,
            self.policy,
            self.stats,
            lambda call: self._pools.run("forward", call),
            outgoing or Outgoing(),
        )
        self._end = CallEnd(edge, self._escalation, self.policy, self.stats, on_answer)
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
        encode: Encoding | None = None,
        quality: int = 90,
        max_side: int | None = None,
        max_message_mib: int | None = None,
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
            encode: `jpeg` or `png`: deferred pictures are sent as such files, a tenth of the bytes
                or less; None sends their pixels. The recorder keeps the original.
            quality: Quality of a JPEG, 1 to 100.
            max_side: Longest side of a picture that is sent, in pixels; None is no limit.
            max_message_mib: Largest request in MiB; by default that of a server of `cloud_stub`.
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
        outgoing = Outgoing(Compression(encode, quality, max_side), max_message_mib)
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
        try:
            outgoing.compression.require_usable(large, edge.metadata.input.name)
            return cls(
                edge,
                large,
                record,
                policy=policy,
                on_answer=on_answer,
                concurrency=concurrency,
                outgoing=outgoing,
            )
        except BaseException:
            if large is not None:
                large.close()
            raise

    def __call__(self, value: Input, *, deadline_s: float | None = None) -> Answer:
        """Answer one input, as `batch` takes them; the errors are those of `batch`."""
        start = perf_counter()
        if os.getpid() != self._owner:
            self._refuse()
        edge = self.edge
        feeds = edge.reader.exact(value)
        if feeds is None:
            batch = read_single(value, edge.reader)
            call = Call(batch, self._next_id(), deadline_s, start)
            return self._end(call, *run_edge(edge, batch.rows))[0]
        rows = feeds[edge.metadata.input.name]
        request_id = f"{self._id_prefix}-{next(self._id_number)}"
        result, fed = run_edge(edge, rows, feeds)
        gated = perf_counter()
        if result.defer.item() or self._is_watched:
            call = Call(Batch(rows, None), request_id, deadline_s, start)
            return self._end(call, result, fed)[0]
        # Most calls end here, and every microsecond counts.
        total_s = perf_counter() - start
        timings = Timings(fed - start, gated - fed, 0.0, 0.0, total_s)
        self.stats.record(_EDGE, total_s)
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
            inputs: Inputs of one size, e.g. uint8 [batch, height, width, 3], or a list: pictures
                as arrays, lists, tensors, of Pillow, or encoded (the name or `Path` of a file, its
                bytes, an open file), which are forwarded unchanged; or texts.
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
        return self._end(call, *run_edge(self.edge, call.batch.rows))

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

    def _stream(self, call: Call, pieces: Iterator[str | GateResult]) -> Iterator[str | Answer]:
        for piece in pieces:
            if isinstance(piece, GateResult):
                yield from self._end(call, piece, call.start)
            else:
                yield piece

    def _start(self, inputs: Any, deadline_s: float | None, request_id: str | None) -> Call:
        start = perf_counter()
        self.require_usable()
        request_id = request_id or self._next_id()
        return Call(read_batch(inputs, self.edge.reader), request_id, deadline_s, start)

    def _next_id(self) -> str:
        return f"{self._id_prefix}-{next(self._id_number)}"

    def submit(self, value: Input, *, deadline_s: float | None = None) -> Future[Answer]:
        """Answer one input in the background; blocks while many others are in progress."""
        self.require_usable()
        return self._pools.submit(lambda: self(value, deadline_s=deadline_s))

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
        self._pools.finish()
        self._owner = _CLOSED
        if self.cloud is not None:
            self.cloud.close()
        self._pools.close()  # their calls have ended with the connection
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

    def _refuse(self) -> None:
        if self._owner == _CLOSED:
            raise UseError(CLOSED)
        raise UseError(
            f"expected the process {self._owner} that opened this cascade, got {os.getpid()}: its "
            "threads and connections do not survive a fork, open one after it"
        )
