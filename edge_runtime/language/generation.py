"""What a decoder says of one prompt."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge_runtime.language.certainty import floor_of, is_certain
from edge_runtime.language.graph import Step
from edge_runtime.language.text import PromptTokenizer, StopStrings, TextPieces

# MERGEDOC edge_runtime/decoding/rows.py: 'One generation while it runs.'

Ended = Literal["eos", "length", "stop", "certain", "cancelled", "refused"]
"""Why a generation ended: its end-of-sequence token, the limit, a stop string, a deferral that was
certain, the caller; or it never began."""

CANCELLED = "cancelled before its end"


@dataclass(frozen=True)
class GenerationTimings:
    """How long a generation took.

    Attributes:
        first_token_s: From the begin of its batch to its first token; 0 where there is none.
        per_token_s: Mean time of each further token; 0 where there is none.
        total_s: From the begin of its batch to its end.
    """

    first_token_s: float = 0.0
    per_token_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True)
class Generation:
    """An answer of M_S with the verdict on it.

    Attributes:
        tokens: The tokens that were generated, an end-of-sequence token among them.
        text: What they say, without special tokens, and without a stop string and what follows it.
        confidence: Higher is surer; NaN where no token was generated.
        defer: Whether M_L should answer.
        ended: Why it ended.
        reason: Why a prompt was refused, or its generation cancelled.
        saved: Tokens at most that were not generated because the deferral was certain.
        timings: How long it took.
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
        """How many tokens were generated."""
        return len(self.tokens)

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second, the prompt's time counted; 0 where there are none."""
        return self.token_count / self.timings.total_s if self.timings.total_s else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: None for a confidence that is no number, a count of tokens."""
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


def refused(reason: str) -> Generation:
    """Return what is said of a prompt that is not answered: it defers."""
    return Generation((), "", math.nan, defer=True, ended="refused", reason=reason)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What ends a generation, and what is compared.

    Attributes:
        kind: Name of the confidence.
        threshold: A confidence under it defers.
        max_new_tokens: The most tokens of an answer.
        eos_token_ids: Tokens that end it.
        stop: Strings that end it.
        stop_when_certain: Whether a deferral that is certain ends it.
    """

    kind: str
    threshold: float
    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    stop: tuple[str, ...] = ()
    stop_when_certain: bool = True


class Row:
    """A generation that runs.

    Args:
        prompt: Its prompt's tokens.
        room: The most tokens it may have.
        rules: What ends it.
        tokenizer: Says what its tokens mean.
        begun: When its batch began, by `time.perf_counter`.
        streams: Whether its text is wanted as it comes.

    Attributes:
        ended: Why it ended, None while it runs.
        piece: What the last token added to the text that can be said; at the end, the rest of it.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        room: int,
        rules: Rules,
        tokenizer: PromptTokenizer,
        begun: float,
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
        self._confidence, self._defer = math.nan, True
        self._times = [begun]

    def take(self, step: Step, at: int) -> None:
        """Take the row `at` of a step; nothing where it has ended."""
        if self.ended is not None:
            return
        if len(self._times) == 1:
            self._times.append(time.perf_counter())
        token = int(step.next_token[at])
        self._tokens.append(token)
        self.piece = self._say(token)
        self.ended = self._end(bool(step.active[at]), float(step.accumulated[at]))
        if self.ended is not None:
            # The verdict is the graph's; where the deferral is certain it is one already.
            self._confidence = float(step.confidence[at])
            self._defer = bool(step.defer[at]) or self.ended == "certain"
            self._finish()

    def cancel(self) -> None:
        """End it without a verdict, where it still runs: it defers."""
        if self.ended is not None:
            return
        self.ended, self.piece = "cancelled", ""
        self._finish()

    def generation(self) -> Generation:
        """Return what became of it."""
        is_certain_end = self.ended == "certain"
        return Generation(
            tuple(self._tokens),
            self._text(),
            self._confidence,
            self._defer,
            self.ended or "cancelled",
            CANCELLED if self.ended == "cancelled" else None,
            self.room - len(self._tokens) if is_certain_end else 0,
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

    def _say(self, token: int) -> str:
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

    def _text(self) -> str:
        if self._texts is not None:
            return "".join(self._texts)
        ends = self._rules.eos_token_ids  # not every tokenizer knows them for special tokens
        return self._tokenizer.decode([token for token in self._tokens if token not in ends])

    def _timings(self) -> GenerationTimings:
        begun, ended = self._times[0], self._times[-1]
        if not self._tokens:
            return GenerationTimings(total_s=ended - begun)
        first, further = self._times[1], len(self._tokens) - 1
        per_token_s = (ended - first) / further if further else 0.0
        return GenerationTimings(first - begun, per_token_s, ended - begun)
