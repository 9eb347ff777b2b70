"""Holds an exported decoder to the model it came from: tokens, confidences, decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_runtime.decoding.decoder import Decoder
from export.errors import VerificationError
from train.models import LanguageModel

_TOLERANCE = 1e-4


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
    other = [
        prompt
        for prompt, answer, tokens, counted in zip(
            prompts, answers, expected.tokens, expected.counted, strict=True
        )
        if list(answer.tokens) != tokens[counted].tolist()
    ]
    if other:
        raise VerificationError(
            f"expected the tokens of PyTorch, {len(other)} of {len(prompts)} answers differ, e.g. "
            f"that to {other[0][:60]!r}: nothing was written"
        )
    wanted = expected.confidence(kind)
    given = np.array([answer.confidence for answer in answers])
    error = float(np.nanmax(np.abs(given - wanted), initial=0.0))
    if error > _TOLERANCE * max(1.0, float(np.nanmax(np.abs(wanted), initial=0.0))):
        raise VerificationError(
            f"expected confidences of PyTorch to {_TOLERANCE:g}, they differ by {error:.2g}: "
            "nothing was written"
        )
    decided = ~(wanted >= threshold)
    near = np.abs(wanted - threshold) <= _TOLERANCE
    flips = int(((np.array([a.defer for a in answers]) != decided) & ~near).sum())
    if flips:
        raise VerificationError(
            f"expected the decisions of PyTorch, {flips} of {len(prompts)} differ: nothing was "
            "written"
        )
    return {"prompts": len(prompts), "confidence_error": error, "near_threshold": int(near.sum())}
