"""Holds an exported decoder to the model it came from: tokens, confidences, decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.language import Decoder, Generation
from export.errors import VerificationError
from train.models import Generated, LanguageModel

_TOLERANCE = 1e-4
_Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison:
    """n answers of a decoder beside those of the model.

    Attributes:
        other_tokens: Where the tokens differ, bool [n].
        apart: How far the confidences are, float64 [n]; 0 where neither is a number, infinite where
            one is none.
        flips: Where the decisions differ, though the confidence is not on the threshold, bool [n].
        near: Where the model's confidence is on the threshold, bool [n].
        tolerance: How far the confidences may be.
    """

    other_tokens: _Flags
    apart: npt.NDArray[np.float64]
    flips: _Flags
    near: _Flags
    tolerance: float

    @property
    def differing(self) -> _Flags:
        """Where an answer is not the model's, in tokens, confidence or decision, bool [n]."""
        return self.other_tokens | (self.apart > self.tolerance) | self.flips


def compare(
    answers: Sequence[Generation], expected: Generated, kind: str, threshold: float
) -> Comparison:
    """Compare answers of a decoder with those of the model to the same n prompts.

    Args:
        answers: The decoder's, whole ones.
        expected: The model's.
        kind: The confidence.
        threshold: What decides.
    """
    pairs = zip(answers, expected.tokens, expected.counted, strict=True)
    other = [list(answer.tokens) != tokens[counted].tolist() for answer, tokens, counted in pairs]
    wanted = expected.confidence(kind)
    given = np.array([answer.confidence for answer in answers])
    apart = np.where(np.isnan(given) & np.isnan(wanted), 0.0, np.abs(given - wanted))
    near = np.abs(wanted - threshold) <= _TOLERANCE
    flips = np.array([answer.defer for answer in answers]) != ~(wanted >= threshold)
    return Comparison(
        other_tokens=np.array(other, np.bool_),
        apart=np.where(np.isnan(apart), np.inf, apart),
        flips=flips & ~near,
        near=near,
        tolerance=_TOLERANCE * max(1.0, float(np.nanmax(np.abs(wanted), initial=0.0))),
    )


def verify_decoder(
    model: LanguageModel,
    decoder: Decoder,
    prompts: Sequence[str],
    max_new_tokens: int,
    kind: str,
    threshold: float,
) -> dict[str, Any]:
    """Return what was compared.

    Args:
        model: What was exported.
        decoder: The bundle, run as it will be.
        prompts: What both are asked.
        max_new_tokens: Most tokens of an answer.
        kind: The confidence.
        threshold: What decides.

    Raises:
        VerificationError: An answer has other tokens, another confidence, or another decision.
    """
    expected = model.generate(prompts, max_new_tokens)
    answers = decoder.generate(
        prompts, max_new_tokens, threshold=threshold, stop_when_certain=False
    )
    found = compare(answers, expected, kind, threshold)
    if found.other_tokens.any():
        first = prompts[int(found.other_tokens.argmax())]
        raise VerificationError(
            f"expected the tokens of PyTorch, {int(found.other_tokens.sum())} of {len(prompts)} "
            f"answers differ, e.g. that to {first[:60]!r}: nothing was written"
        )
    error = float(found.apart.max(initial=0.0))
    if error > found.tolerance:
        raise VerificationError(
            f"expected confidences of PyTorch to {_TOLERANCE:g}, they differ by {error:.2g}: "
            "nothing was written"
        )
    if found.flips.any():
        raise VerificationError(
            f"expected the decisions of PyTorch, {int(found.flips.sum())} of {len(prompts)} "
            "differ: nothing was written"
        )
    return {
        "prompts": len(prompts),
        "confidence_error": error,
        "near_threshold": int(found.near.sum()),
    }
