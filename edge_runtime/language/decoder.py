"""The small language model on the device: prompts in, answers with a verdict out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any, Self

import numpy as np

from edge_runtime import contract
from edge_runtime.bundle import Bundle, read_bundle
from edge_runtime.errors import SettingError, UseError
from edge_runtime.language.generation import Generation, Row, Rules, refused
from edge_runtime.language.graph import DecoderGraph, Sequences, Step, StoppedError
from edge_runtime.language.settings import DecoderSettings
from edge_runtime.language.text import PromptTokenizer, batches, require_texts
from edge_runtime.sessions import SessionSettings, open_session, require_version
from edge_runtime.texts import tokenizer_file

BATCH = 16


class Decoder:
    """M_S, a language model with its gate, ready to answer prompts.

    Threads may share it; as a context manager it closes itself.

    Args:
        bundle: A checked bundle of a decoder.
        threshold: Overrides the baked threshold; any float, infinities included, but not NaN.
        session: How ONNX Runtime runs the graph.

    Raises:
        BundleError: The bundle is of another task, its graph or tokenizer does not load, or the
            graph does not follow the contract.
        DependencyError: `tokenizers` is not installed.
        SettingError: A setting is out of range, or a provider is not to be had here.

    Example:
        with Decoder.open("bundle", threads=1) as decoder:
            for answer in decoder.generate(["what is my limit?", "book a table"]):
                print(answer.text, answer.confidence, answer.defer)
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threshold: float | None = None,
        session: SessionSettings | None = None,
    ) -> None:
        self.bundle = bundle
        self.metadata = bundle.metadata
        self.settings = DecoderSettings.from_metadata(bundle.metadata)
        self.threshold = _threshold(threshold, bundle.metadata.threshold)
        self._tokenizer = PromptTokenizer(tokenizer_file(bundle))
        require_version(bundle.graph, self.settings.least_onnxruntime)
        opened = open_session(bundle.graph, session or SessionSettings())
        self._opened: DecoderGraph | None = DecoderGraph(opened, bundle.graph, self.settings)
        self._batch = 1 if _shares_scales(bundle) else BATCH

    @classmethod
    def open(cls, path: Path | str, *, threshold: float | None = None, **session: Any) -> Decoder:
        """Check the bundle at `path` and load its graph.

        Args:
            path: The bundle's folder, or the graph in it.
            threshold: See the class, also for the errors.
            **session: `SessionSettings`, e.g. `threads=1`.
        """
        place = Path(path)
        folder = place.parent if place.is_file() else place
        bundle = read_bundle(folder, contract.ROLE_DECODER)
        return cls(bundle, threshold=threshold, session=SessionSettings(**session))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; what still runs ends first. Closing twice is allowed."""
        self._opened = None

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int | None = None,
        threshold: float | None = None,
        stop: Sequence[str] = (),
        *,
        stop_when_certain: bool = True,
        batch_size: int | None = None,
        compact: bool = False,
        cancel: Event | None = None,
    ) -> list[Generation]:
        """Answer prompts greedily, those alike in length together.

        A prompt that is empty or no valid text, has no token of its own, or leaves no room for an
        answer in the context, is refused: its confidence is NaN, and it defers.

        Args:
            prompts: The texts, any number.
            max_new_tokens: The most tokens of an answer; the bundle's when None.
            threshold: Used instead of the decoder's.
            stop: Strings that end an answer; they are no part of its text.
            stop_when_certain: End a generation once it is certain to defer; the decision is that of
                the whole one, the confidence that of the tokens so far.
            batch_size: The most prompts that are answered at once; when None 16, or 1 where the
                graph quantizes what it works on by a scale that all rows share.
            compact: Take rows that have ended out of their batch. Faster where answers differ in
                length, but a smaller batch is rounded otherwise, so that `stop_when_certain` may
                move the others' confidences in their last digits.
            cancel: Once set, what still runs ends as it is, and defers; so does the reading of a
                long prompt.

        Raises:
            InputError: These are no texts, or the graph fails on them.
            SettingError: A setting is out of range.
            UseError: The decoder was closed.
        """
        rules = self._rules(max_new_tokens, threshold, stop, stop_when_certain=stop_when_certain)
        graph = self._graph
        most = self._batch if batch_size is None else batch_size
        if most < 1:
            raise SettingError(f"expected batch_size of at least 1, got {most}")
        encoded, answers = self._encoded(require_texts(prompts))
        rooms = {i: (len(ids), self._room(ids, rules)) for i, ids in encoded.items()}
        for batch in batches(rooms, most):
            begun = time.perf_counter()
            rows = [Row(encoded[i], rooms[i][1], rules, self._tokenizer, begun) for i in batch]
            for _ in _decode(graph, rows, rules.threshold, cancel, compact=compact):
                pass
            answers.update(zip(batch, (row.generation() for row in rows), strict=True))
        return [answers[i] for i in range(len(answers))]

    def stream(
        self,
        prompt: str,
        max_new_tokens: int | None = None,
        threshold: float | None = None,
        stop: Sequence[str] = (),
        *,
        stop_when_certain: bool = True,
        cancel: Event | None = None,
    ) -> Iterator[str | Generation]:
        """Yield an answer's text piece by piece, and at last the generation with its verdict.

        The pieces are whole characters and together the text. Closing the iterator ends the
        generation and frees its caches.

        Args:
            prompt: The text.
            max_new_tokens: See `generate`, for the others and the errors as well.
            threshold: The same.
            stop: The same.
            stop_when_certain: The same; what was yielded before stays said.
            cancel: The same.
        """
        rules = self._rules(max_new_tokens, threshold, stop, stop_when_certain=stop_when_certain)
        require_texts([prompt])
        return self._stream(prompt, rules, cancel)

    def _stream(
        self, prompt: str, rules: Rules, cancel: Event | None
    ) -> Iterator[str | Generation]:
        begun, graph = time.perf_counter(), self._graph
        ids, reason = self._tokenizer.encode(prompt, self.settings.context)
        if reason is not None:
            yield refused(reason)
            return
        row = Row(ids, self._room(ids, rules), rules, self._tokenizer, begun, streams=True)
        for _ in _decode(graph, [row], rules.threshold, cancel):
            if row.piece:
                yield row.piece
        yield row.generation()

    @property
    def _graph(self) -> DecoderGraph:
        if self._opened is None:
            raise UseError("expected a decoder that is open, this one was closed: open it again")
        return self._opened

    def _encoded(self, prompts: list[str]) -> tuple[dict[int, list[int]], dict[int, Generation]]:
        """Return the tokens of the prompts that can be answered, and what is said of the others."""
        encoded: dict[int, list[int]] = {}
        others: dict[int, Generation] = {}
        for i, prompt in enumerate(prompts):
            ids, reason = self._tokenizer.encode(prompt, self.settings.context)
            if reason is None:
                encoded[i] = ids
            else:
                others[i] = refused(reason)
        return encoded, others

    def _room(self, ids: Sequence[int], rules: Rules) -> int:
        return min(rules.max_new_tokens, self.settings.context - len(ids))

    def _rules(
        self,
        max_new_tokens: int | None,
        threshold: float | None,
        stop: Sequence[str],
        *,
        stop_when_certain: bool,
    ) -> Rules:
        most = self.settings.max_new_tokens if max_new_tokens is None else max_new_tokens
        if most < 1:
            raise SettingError(f"expected max_new_tokens of at least 1, got {most}")
        if isinstance(stop, str) or not all(stop):
            raise SettingError(f"expected a list of stop strings, none empty, got {stop!r}")
        return Rules(
            kind=self.metadata.confidence_kind,
            threshold=_threshold(threshold, self.threshold),
            max_new_tokens=most,
            eos_token_ids=self.settings.eos_token_ids,
            stop=tuple(stop),
            stop_when_certain=stop_when_certain,
        )


def _decode(
    graph: DecoderGraph,
    rows: Sequence[Row],
    threshold: float,
    cancel: Event | None,
    *,
    compact: bool = False,
) -> Iterator[None]:
    """Run rows to their ends, pausing after every token."""
    running = rows
    sequences = Sequences(graph, [row.prompt for row in rows], threshold)
    while any(row.ended is None for row in running):
        if cancel is not None and cancel.is_set():
            for row in running:
                row.cancel()
        else:
            try:
                step = sequences.step(cancel)
            except StoppedError:
                continue
            for at, row in enumerate(running):
                row.take(step, at)
            running = _go_on(sequences, running, step, compact=compact)
        yield


def _go_on(
    sequences: Sequences, rows: Sequence[Row], step: Step, *, compact: bool
) -> Sequence[Row]:
    """Let rows that have ended rest, or leave; return those that are there."""
    active = [row.ended is None for row in rows]
    if not any(active):
        return []
    if compact and not all(active):
        kept = [at for at, is_active in enumerate(active) if is_active]
        sequences.keep(kept)
        return [rows[at] for at in kept]
    # What the graph cannot know of: a limit, a stop string, a deferral that is certain.
    if active != step.active.tolist():
        sequences.rest(active)
    return rows


def _threshold(given: float | None, usual: float) -> float:
    """Return a threshold as the graph compares with it."""
    if given is None:
        return float(np.float32(usual))
    if math.isnan(given):
        raise SettingError("expected a number as threshold, got NaN: it would defer everything")
    return float(np.float32(given))


def _shares_scales(bundle: Bundle) -> bool:
    # Dynamic quantization takes its scale from the whole tensor: a row would change the others'.
    quantization = bundle.metadata.extra.get(contract.QUANTIZATION)
    return "dynamic" in str(quantization)
