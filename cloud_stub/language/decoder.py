"""A bundle of a language model: answers texts with texts in ONNX Runtime, without torch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any, Final

import numpy as np

from cloud_stub.backends.backend import Batch, Outputs, Part
from cloud_stub.errors import ModelFailureError, RefusedRowsError, out_of_memory
from cloud_stub.language.answers import MAX_TOKENS, Answers, generation_signature
from cloud_stub.scheduling.workers import give_back
from edge_runtime import contract
from edge_runtime.answer import Answer, Source
from edge_runtime.cascade import Cascade
from edge_runtime.cloud.base import Cloud, CloudAnswers
from edge_runtime.cloud.connect import connect
from edge_runtime.errors import CloudDeadlineError, InputError, SettingError, lacks_memory
from edge_runtime.files import one_line
from edge_runtime.language.decoder import Decoder
from edge_runtime.language.edge_generator import EdgeGenerator
from edge_runtime.language.generation import Row
from edge_runtime.language.text import MOST_BATCH_TOKENS, batches

_WORKERS: Final = 4
"""Batches at once: a short answer does not wait for the end of a long one."""
_REPLY_S: Final = 0.02
"""Part of the callers' time that is reserved for sending the answer back."""
_REASON_LENGTH: Final = 200
_LARGE: Final = 1 << 10
"""Characters of prompts and tokens of answers, after which memory is given back."""


class DecoderBackend:
    """A bundle of a language model, which decodes greedily on the CPU.

    Args:
        path: The bundle's folder.
        threads: Threads of one step; 0 leaves the choice to ONNX Runtime.
        kind: Kind of an answer's confidence, or "": only the graph's own can be had.
        max_new_tokens: The most tokens of an answer; 0 takes the bundle's own limit.

    Raises:
        GatekeeperError: The bundle cannot be opened, or its confidence is of another kind.
    """

    workers = _WORKERS
    labels: tuple[str, ...] = ()

    def __init__(
        self, path: Path, threads: int, *, kind: str = "", max_new_tokens: int = 0
    ) -> None:
        self._decoder = _open(path, threads)
        own = self._decoder.metadata.confidence_kind
        if kind not in {"", own}:
            raise SettingError(
                f"expected --confidence {own}, which the graph in {path} computes, got {kind}: "
                f"leave it out, or export the bundle with --confidence {kind}"
            )
        self.signature = generation_signature(
            "gatekeeper_decoder",
            max_new_tokens or self._decoder.settings.max_new_tokens,
            is_batched=True,
            is_continuous=True,
        )

    def infer(self, batch: Batch) -> Iterator[Outputs | Part]:
        """Generate the answers to texts, those of similar length together."""
        return _giving_back(batch, self._infer(batch))

    def _infer(self, batch: Batch) -> Iterator[Outputs | Part]:
        texts: Any = batch.inputs[contract.TEXT]
        prompts, refusals = self._decoder.encode(list(texts))
        if refusals:
            raise RefusedRowsError({row: str(one.reason) for row, one in refusals.items()})
        most = np.asarray(batch.inputs[MAX_TOKENS]).tolist()
        context = self._decoder.settings.context
        rooms = {
            row: (len(ids), min(most[row], context - len(ids))) for row, ids in prompts.items()
        }
        answers, whole = Answers(batch.rows), set[int]()
        # Nobody sees it: it shows that the model is alive, and is the moment to look for callers.
        heartbeat = Part(answers.outputs())
        share = MOST_BATCH_TOKENS // self.workers
        for places in batches(rooms, self._decoder.most_rows, most_tokens=share):
            steps = self._decoder.advance(
                [prompts[place] for place in places],
                [rooms[place][1] for place in places],
                streams=batch.is_streamed,
                cancel=_Gone(batch.is_wanted, places),
            )
            with _failures():
                for rows in steps:
                    growing = {
                        place: row
                        for place, row in zip(places, rows, strict=True)
                        if place not in whole
                    }
                    has_ended = _put(growing, batch, answers, whole)
                    is_news = batch.is_streamed or has_ended
                    yield Part(answers.outputs(), frozenset(whole)) if is_news else heartbeat
        yield answers.outputs()

    def close(self) -> None:
        """Free the model once the running generations have ended."""
        self._decoder.close()


class DecoderCascadeBackend:
    """A middle tier of texts: a language model's bundle, and a further cloud for the rest.

    Each worker answers one text after the other. If the further cloud fails, the bundle's own
    answer stands, to its end. The confidence is always the bundle's.

    Args:
        path: The bundle's folder.
        threads: Threads of one step; 0 leaves the choice to ONNX Runtime.
        cloud: Address of the further cloud.
        deadline_s: Longest wait for it; shorter if the callers have less time.
        **options: Further arguments of `CloudModel.open`.

    Raises:
        GatekeeperError: Bundle, address or protection do not fit.
    """

    workers = _WORKERS
    labels: tuple[str, ...] = ()

    def __init__(
        self, path: Path, threads: int, *, cloud: str, deadline_s: float, **options: Any
    ) -> None:
        self._decoder = _open(path, threads)
        self._deadline_s = deadline_s
        far = connect(
            cloud,
            EdgeGenerator(self._decoder),
            model=contract.DEFAULT_MODEL,
            deadline_s=deadline_s,
            forward="original",
            options=options,
        )
        assert far is not None  # noqa: S101 - there is an address
        self._far = far
        # The further cloud is not told how many tokens a caller asks for, so nobody may ask.
        self.signature = generation_signature(
            "gatekeeper_decoder_cascade", None, is_batched=True, is_continuous=True
        )

    def infer(self, batch: Batch) -> Iterator[Outputs | Part]:
        """Answer texts; only what the bundle is unsure of is forwarded."""
        return _giving_back(batch, self._infer(batch))

    def _infer(self, batch: Batch) -> Iterator[Outputs | Part]:
        texts: list[Any] = list(batch.inputs[contract.TEXT])
        answers, whole, refused = Answers(batch.rows), set[int](), dict[int, str]()
        end_s = monotonic() + batch.timeout_s - _REPLY_S
        # What only the further cloud can answer comes first: the others are generated only once.
        _, foreign = self._decoder.encode(texts)
        for row in sorted(range(batch.rows), key=lambda row: row not in foreign):
            if refused and row not in foreign:
                break
            with _failures():
                for answer in self._answer(row, texts[row], batch, end_s, answers):
                    if answer is not None:
                        whole.add(row)
                        if row in foreign and answer.source is not Source.CLOUD:
                            refused[row] = str(foreign[row].reason)
                    yield Part(answers.outputs(), frozenset(whole - refused.keys()))
        if refused:
            raise RefusedRowsError(refused)
        yield answers.outputs()

    def _answer(
        self, row: int, text: str, batch: Batch, end_s: float, answers: Answers
    ) -> Iterator[Answer | None]:
        """Answer one row; yield None whenever it has grown, and the cascade's answer at its end."""
        gone, said = _Gone(batch.is_wanted, [row]), ""
        small = EdgeGenerator(self._decoder, gone)
        cascade = Cascade(small, _Within(self._far, gone, end_s))
        for piece in cascade.stream(text, deadline_s=self._deadline_s):
            if isinstance(piece, Answer):
                answers.put(row, piece.text, self._confidence(piece), is_whole=True)
                yield piece
            else:
                said += piece
                answers.put(row, said, math.nan, is_whole=False)
                yield None

    def close(self) -> None:
        """Close the connection to the further cloud, and free the model."""
        self._far.close()
        self._decoder.close()

    def _confidence(self, answer: Answer) -> float:
        """Return the bundle's confidence; the lowest possible one where it has no token."""
        lowest = self._decoder.metadata.confidence_range[0]
        return lowest if math.isnan(answer.confidence) else answer.confidence


def _open(path: Path, threads: int) -> Decoder:
    # The arena would keep what the longest prompt ever needed, 270 MB for 1,800 tokens of a model
    # of 135 million weights. Without it steps took as long, within 12 %.
    return Decoder.open(path, threads=threads or None, arena=False)


def _giving_back(batch: Batch, parts: Iterator[Outputs | Part]) -> Iterator[Outputs | Part]:
    """Pass on parts; after many tokens the memory of their caches goes back to the system.

    The message of such a call is small, so the server does not look for it.
    """
    try:
        yield from parts
    finally:
        texts: Any = batch.inputs[contract.TEXT]
        size = sum(map(len, texts)) + int(np.sum(np.asarray(batch.inputs.get(MAX_TOKENS, 0))))
        if size >= _LARGE:
            give_back()


class _Gone(Event):
    """Is set once nobody is waiting for any of some rows: it asks, nobody has to tell it."""

    def __init__(self, is_wanted: Callable[[int], bool], rows: Sequence[int]) -> None:
        super().__init__()
        self._is_wanted, self._rows = is_wanted, rows

    def is_set(self) -> bool:
        return not any(map(self._is_wanted, self._rows))

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set() or super().wait(timeout) or self.is_set()


class _Within:
    """The further cloud, for which nobody waits longer than the callers do."""

    takes_files = False

    def __init__(self, cloud: Cloud, gone: Event, end_s: float) -> None:
        self.model, self.deadline_s = cloud.model, cloud.deadline_s
        self._cloud, self._gone, self._end_s = cloud, gone, end_s

    def infer(self, rows: Any, *, deadline_s: float | None = None, **call: Any) -> CloudAnswers:
        left_s = self._end_s - monotonic()
        if left_s <= 0 or self._gone.is_set():
            raise CloudDeadlineError("no time of the callers was left to ask")
        limit_s = left_s if deadline_s is None else min(left_s, deadline_s)
        return self._cloud.infer(rows, deadline_s=limit_s, **call)

    def close(self) -> None:
        """Do nothing: the connection outlives the call."""


def _put(growing: dict[int, Row], batch: Batch, answers: Answers, whole: set[int]) -> bool:
    """Note the answers so far, and end those that nobody waits for; return whether any ended."""
    before = len(whole)
    for place, row in growing.items():
        if not batch.is_wanted(place):
            row.cancel()
        is_whole = row.ended is not None
        if batch.is_streamed or is_whole:
            answers.put(place, row.text(), row.confidence, is_whole=is_whole)
        if is_whole:
            whole.add(place)
    return len(whole) > before


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Turn an error of the graph into one of the model."""
    try:
        yield
    except InputError as error:
        cause = error.__context__ or error  # its own words name a file of this machine
        if lacks_memory(cause):
            raise out_of_memory() from None
        raise ModelFailureError(f"the model failed: {one_line(cause, _REASON_LENGTH)}") from None
