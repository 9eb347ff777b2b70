"""The small language model on the device: answers prompts and decides which to defer."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from edge_runtime import contract
from edge_runtime.bundle import Bundle, read_bundle
from edge_runtime.errors import SettingError, UseError
from edge_runtime.inputs.texts import require_texts, tokenizer_file
from edge_runtime.language.generation import Generation, Row, Rules, refusal
from edge_runtime.language.graph import DecoderGraph, Sequences, Step, StoppedError
from edge_runtime.language.settings import DecoderSettings
from edge_runtime.language.text import PromptTokenizer, batches
from edge_runtime.sessions import SessionSettings, open_session, require_version, threshold_feed

if TYPE_CHECKING:
    from typing_extensions import Self

BATCH = 16


class Decoder:
    """M_S, a language model with its gate, ready to answer prompts.

    Safe to share between threads. As a context manager it closes itself.

    Args:
        bundle: A checked bundle of a decoder.
        threshold: Replaces the bundle's threshold; any float, infinities included, but not NaN.
        session: Settings of the ONNX Runtime session.

    Attributes:
        most_rows: Most prompts that are answered together.

    Raises:
        BundleError: The bundle is for another task, its graph or tokenizer does not load, or the
            graph does not follow the contract.
        DependencyError: `tokenizers` is not installed.
        SettingError: A setting is out of range, or a provider is not available here.

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
        self.bundle = dataclasses.replace(bundle, content=b"")
        self.metadata = bundle.metadata
        self.settings = DecoderSettings.from_metadata(bundle.metadata)
        baked = bundle.metadata.threshold
        self.threshold = float(threshold_feed(baked if threshold is None else threshold))
        self._tokenizer = PromptTokenizer(tokenizer_file(bundle))
        require_version(bundle.graph, self.settings.least_onnxruntime)
        opened = open_session(bundle, session or SessionSettings())
        self._opened: DecoderGraph | None = DecoderGraph(opened, bundle.graph, self.settings)
        self.most_rows = 1 if _shares_scales(bundle) else BATCH

    @classmethod
    def open(cls, path: Path | str, *, threshold: float | None = None, **session: Any) -> Decoder:
        """Check the bundle at `path` and load its graph.

        Args:
            path: The bundle's folder, or the graph in it.
            threshold: Replaces the bundle's threshold, as in the class, which lists the errors.
            **session: `SessionSettings`, e.g. `threads=1`.
        """
        is_graph = (
            Path(path).suffix == ".onnx" and Path(path).with_name(contract.BUNDLE_FILE).exists()
        )
        folder = Path(path).parent if is_graph else Path(path)
        bundle = read_bundle(folder, contract.ROLE_DECODER)
        return cls(bundle, threshold=threshold, session=SessionSettings(**session))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model once running generations have ended. Closing twice is allowed."""
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
        """Answer prompts greedily, in batches of similar length.

        A prompt that is empty or not valid text, has no token of its own, or leaves no room for an
        answer in the context, is refused: its confidence is NaN, and it defers.

        Args:
            prompts: The prompts, any number.
            max_new_tokens: Most tokens of an answer; the bundle's limit if None.
            threshold: Replaces the decoder's threshold.
            stop: Strings that end an answer; they are not part of its text.
            stop_when_certain: Whether a generation ends once its deferral is certain. The decision
                is that of the complete generation, the confidence that of the tokens so far.
            batch_size: Most prompts answered at once; if None 16, or 1 where the graph quantizes
                activations with a scale shared by all rows.
            compact: Whether rows that have ended leave their batch. Faster where answers differ in
                length, but a smaller batch is rounded differently, so that `stop_when_certain` may
                change the last digits of the other rows' confidences.
            cancel: Event that ends the generations in progress, and the reading of a long prompt;
                they defer.

        Raises:
            InputError: The prompts are not texts, or the graph fails on them.
            SettingError: A setting is out of range.
            UseError: The decoder was closed.
        """
        rules = self._rules(max_new_tokens, threshold, stop, stop_when_certain=stop_when_certain)
        graph = self._graph
        most = self.most_rows if batch_size is None else batch_size
        if most < 1:
            raise SettingError(f"expected batch_size of at least 1, got {most}")
        encoded, answers = self.encode(require_texts(prompts, "prompts"))
        rooms = {i: (len(ids), self._room(ids, rules)) for i, ids in encoded.items()}
        for batch in batches(rooms, most):
            start = time.perf_counter()
            rows = [Row(encoded[i], rooms[i][1], rules, self._tokenizer, start) for i in batch]
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
        """Yield an answer's text piece by piece, then the generation with its decision.

        The pieces consist of complete characters, and together they are the text. Closing the
        iterator ends the generation and frees its caches. The arguments and errors are those of
        `generate`.
        """
        rules = self._rules(max_new_tokens, threshold, stop, stop_when_certain=stop_when_certain)
        require_texts([prompt], "prompts")
        return self._stream(prompt, rules, cancel)

    def encode(self, prompts: Sequence[str]) -> tuple[dict[int, list[int]], dict[int, Generation]]:
        """Return the tokens of the prompts that can be answered, and the refusals of the others."""
        encoded: dict[int, list[int]] = {}
        refusals: dict[int, Generation] = {}
        for i, prompt in enumerate(prompts):
            ids, reason = self._tokenizer.encode(prompt, self.settings.context)
            if reason is None:
                encoded[i] = ids
            else:
                refusals[i] = refusal(reason)
        return encoded, refusals

    def advance(
        self,
        prompts: Sequence[Sequence[int]],
        rooms: Sequence[int],
        *,
        streams: bool = False,
        cancel: Event | None = None,
    ) -> Iterator[list[Row]]:
        """Answer prompts together and to their ends, and yield their rows after every token.

        For servers, which look after each answer while it grows. A row that has ended or that the
        caller cancels leaves the others. Closing the iterator frees the caches.

        Args:
            prompts: Tokens of each prompt, as `encode` returns them.
            rooms: The most tokens of each answer, at least 1; they fit the context.
            streams: Whether the texts are read while they grow.
            cancel: Event that ends them all, and the reading of a long prompt.

        Raises:
            InputError: The graph fails.
            UseError: The decoder was closed.
        """
        rules = self._rules(None, None, (), stop_when_certain=False)
        start = time.perf_counter()
        rows = [
            Row(ids, room, rules, self._tokenizer, start, streams=streams)
            for ids, room in zip(prompts, rooms, strict=True)
        ]
        for _ in _decode(self._graph, rows, rules.threshold, cancel, compact=True):
            yield rows

    def _stream(
        self, prompt: str, rules: Rules, cancel: Event | None
    ) -> Iterator[str | Generation]:
        start, graph = time.perf_counter(), self._graph
        ids, reason = self._tokenizer.encode(prompt, self.settings.context)
        if reason is not None:
            yield refusal(reason)
            return
        row = Row(ids, self._room(ids, rules), rules, self._tokenizer, start, streams=True)
        for _ in _decode(graph, [row], rules.threshold, cancel):
            if row.piece:
                yield row.piece
        yield row.generation()

    @property
    def _graph(self) -> DecoderGraph:
        if self._opened is None:
            raise UseError("expected an open decoder, this one is closed: open it again")
        return self._opened

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
            threshold=self.threshold if threshold is None else float(threshold_feed(threshold)),
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
    """Run rows to their ends, yielding after every token."""
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
                row.add(step, at)
            running = _pause_ended(sequences, running, step, compact=compact)
        yield


def _pause_ended(
    sequences: Sequences, rows: Sequence[Row], step: Step, *, compact: bool
) -> Sequence[Row]:
    """Pause or remove rows that have ended; return those that stay in the batch."""
    active = [row.ended is None for row in rows]
    if not any(active):
        return []
    if compact and not all(active):
        kept = [at for at, is_active in enumerate(active) if is_active]
        sequences.keep(kept)
        return [rows[at] for at in kept]
    # The graph does not know of limits, stop strings and certain deferrals.
    if active != step.active.tolist():
        sequences.pause(active)
    return rows


def _shares_scales(bundle: Bundle) -> bool:
    # Dynamic quantization takes its scale from the whole tensor: a row would affect the others.
    quantization = bundle.metadata.extra.get(contract.QUANTIZATION)
    return "dynamic" in str(quantization)
