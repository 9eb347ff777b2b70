"""What a decoder says of one prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Ended = Literal["eos", "length", "stop", "certain", "cancelled", "refused"]
"""Why a generation ended: its end-of-sequence token, the limit, a stop string, a deferral that was
certain, the caller; or it never began."""


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
