"""The generation of one answer: its result, its limits, and its progress token by token.

A deferral may be certain before the generation ends. No confidence kind here rises from one token
to the next: logarithms of probabilities and negative entropies are at most 0, so their sums and
minima only fall. Float32 keeps that order (rounding is monotone), but a division or an exponential
may differ from another library's by an ulp; the limits here leave a margin for that, so that the
decision is that of the complete generation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from edge_runtime import contract
from edge_runtime.language.graph import Step
from edge_runtime.language.text import PromptTokenizer, StopStrings, TextPieces

Ended = Literal["eos", "length", "stop", "certain", "cancelled", "refused"]
"""Reason for the end of a generation: end-of-sequence token, limit, stop string, certain deferral,
caller; or `refused` if it never started."""

CANCELLED: Final = "cancelled before its end"
_MEANS: Final = (contract.NEG_ENTROPY, contract.MEAN_LOGPROB)
_PROBABILITIES: Final = (contract.MIN_PROB, contract.MAX_SOFTMAX)
_ULP: Final = 2.0**-23  # of a float32 next to 1
_LEAST_NORMAL: Final = 2.0**-126
_LEAST: Final = 2.0**-149
_MARGIN: Final = 4  # ulps; ONNX Runtime 1.32 was within 0.87 on a CPU


@dataclass(frozen=True)
class GenerationTimings:
    """Times of a generation.

    Attributes:
        first_token_s: Time from the start of the batch to the first token; 0 without tokens.
        per_token_s: Mean time of each further token; 0 without further tokens.
        total_s: Time from the start of the batch to the end.
    """

    first_token_s: float = 0.0
    per_token_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True)
class Generation:
    """An answer of M_S with the gate's decision.

    Attributes:
        tokens: The generated tokens, including an end-of-sequence token.
        text: The tokens as text, without special tokens, cut before a stop string.
        confidence: Confidence of the answer, higher is surer; NaN without tokens.
        defer: Whether M_L should answer.
        ended: Reason for the end.
        reason: Why a prompt was refused or its generation cancelled, else None.
        saved: Upper bound of the tokens not generated because the deferral was certain.
        timings: Times of the generation.
    """

    tokens: tuple[int, ...]
    text: str
    confidence: float
    defer: bool
    ended: Ended
    reason: str | None = None
    saved: int = 0
    timings: GenerationTimings = GenerationTimings()

    @property
    def token_count(self) -> int:
        """Number of generated tokens."""
        return len(self.tokens)

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second, with the prompt's time included; 0 without tokens."""
        return self.token_count / self.timings.total_s if self.timings.total_s else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return values for JSON: None for a NaN confidence, and the number of tokens."""
        return {
            "text": self.text,
            "confidence": self.confidence if math.isfinite(self.confidence) else None,
            "defer": self.defer,
            "token_count": self.token_count,
            "ended": self.ended,
            "reason": self.reason,
            "saved": self.saved,
            "first_token_s": self.timings.first_token_s,
            "tokens_per_s": self.tokens_per_s,
        }


def refusal(reason: str) -> Generation:
    """Return the result for a prompt that cannot be answered: it defers."""
    return Generation((), "", math.nan, defer=True, ended="refused", reason=reason)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The decision rule and the limits of a generation.

    Attributes:
        kind: Name of the confidence.
        threshold: A lower confidence defers.
        max_new_tokens: Most tokens of an answer.
        eos_token_ids: Tokens that end an answer.
        stop: Strings that end an answer.
        stop_when_certain: Whether a certain deferral ends an answer.
    """

    kind: str
    threshold: float
    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    stop: tuple[str, ...] = ()
    stop_when_certain: bool = True


class Row:
    """A generation in progress, as one row of a batch.

    Args:
        prompt: Tokens of the prompt.
        room: Most tokens of the answer.
        rules: Decision rule and limits.
        tokenizer: Tokenizer that decodes the tokens.
        start: Start of the batch, by `time.perf_counter`.
        streams: Whether the text is needed while it is generated.

    Attributes:
        ended: Reason for the end, None while in progress.
        piece: New text that is final after the last token; at the end, the rest of the text.
        confidence: Confidence of the tokens so far; NaN before the first, and once cancelled.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        room: int,
        rules: Rules,
        tokenizer: PromptTokenizer,
        start: float,
        *,
        streams: bool = False,
    ) -> None:
        self.prompt = prompt
        self.room = room
        self.ended: Ended | None = None
        self.piece = ""
        self._rules = rules
        self._tokenizer = tokenizer
        certain = rules.stop_when_certain
        self._floor = floor_of(rules.kind, rules.threshold, room) if certain else None
        self._tokens: list[int] = []
        self._texts: list[str] | None = [] if streams or rules.stop else None
        self._pieces, self._stops = TextPieces(tokenizer.decode), StopStrings(rules.stop)
        self.confidence, self._defer = math.nan, True
        self._times = [start]

    def add(self, step: Step, at: int) -> None:
        """Add the token of row `at` of a step, unless the generation has ended."""
        if self.ended is not None:
            return
        if len(self._times) == 1:
            self._times.append(time.perf_counter())
        token = int(step.next_token[at])
        self._tokens.append(token)
        self.piece = self._decode(token)
        self.confidence = float(step.confidence[at])
        self.ended = self._end(bool(step.active[at]), float(step.accumulated[at]))
        if self.ended is not None:
            # The graph decides, except for a certain deferral, which it may not have reached yet.
            self._defer = bool(step.defer[at]) or self.ended == "certain"
            self._finish()

    def cancel(self) -> None:
        """End a generation in progress without a decision of the gate: it defers."""
        if self.ended is not None:
            return
        self.ended, self.piece, self.confidence = "cancelled", "", math.nan
        self._finish()

    def text(self) -> str:
        """Return the text so far; while it grows, without incomplete characters if it streams."""
        if self._texts is not None:
            return "".join(self._texts)
        ends = self._rules.eos_token_ids  # not every tokenizer treats them as special tokens
        return self._tokenizer.decode([token for token in self._tokens if token not in ends])

    def generation(self) -> Generation:
        """Return the result."""
        return Generation(
            tuple(self._tokens),
            self.text(),
            self.confidence,
            self._defer,
            self.ended or "cancelled",
            CANCELLED if self.ended == "cancelled" else None,
            self.room - len(self._tokens) if self.ended == "certain" else 0,
            self._timings(),
        )

    def _end(self, active: bool, accumulated: float) -> Ended | None:
        if not active:
            return "eos"
        if self._stops.is_found:
            return "stop"
        if len(self._tokens) >= self.room:
            return "length"
        return "certain" if is_certain(accumulated, self._floor) else None

    def _decode(self, token: int) -> str:
        """Return the new text that is final after a token, if text is needed already."""
        if self._texts is None or token in self._rules.eos_token_ids:
            return ""
        piece = self._stops.add(self._pieces.add(token))
        self._texts.append(piece)
        return piece

    def _finish(self) -> None:
        self._times.append(time.perf_counter())
        if self._texts is not None:
            rest = self._stops.add(self._pieces.rest()) + self._stops.rest()
            self._texts.append(rest)
            self.piece += rest

    def _timings(self) -> GenerationTimings:
        start, end = self._times[0], self._times[-1]
        if not self._tokens:
            return GenerationTimings(total_s=end - start)
        first, further = self._times[1], len(self._tokens) - 1
        per_token_s = (end - first) / further if further else 0.0
        return GenerationTimings(first - start, per_token_s, end - start)


def floor_of(kind: str, threshold: float, limit: int) -> float | None:
    """Return the least accumulator with which M_S may still answer.

    The accumulator is the graph's `present.confidence`: by kind the sum, the minimum or the first
    of the tokens' values. Below the floor, or where it is NaN, the generation defers whatever
    follows (`is_certain`).

    Args:
        kind: Name of the confidence.
        threshold: The threshold, a float32 value; a lower confidence defers.
        limit: Most tokens of the generation, at least 1.

    Returns:
        None for a kind that may rise: its deferral is never certain before the end.
    """
    if kind in _MEANS:
        # sum / count >= threshold needs sum >= threshold * limit, as count <= limit and sum <= 0
        return _lower(threshold * limit, limit)
    if kind == contract.SUM_LOGPROB:
        return _lower(threshold, 1)
    if kind in _PROBABILITIES:
        if threshold < _LEAST_NORMAL:  # a library may treat a subnormal number as 0
            return -math.inf
        return math.log(threshold) - _MARGIN * _ULP
    return None


def is_certain(accumulated: float, floor: float | None) -> bool:
    """Return whether a generation defers, whatever its further tokens are."""
    if floor is None or accumulated > 0:  # not a sum of these kinds: nothing is known about it
        return False
    return not accumulated >= floor


def _lower(value: float, limit: int) -> float:
    if math.isinf(value):
        return value
    return value - _MARGIN * (abs(value) * _ULP + limit * _LEAST)
