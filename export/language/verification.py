"""Verifies a decoder against its model by tokens, confidences and decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.bundle import read_bundle
from edge_runtime.errors import SettingError
from edge_runtime.language import Decoder, Generation
from edge_runtime.metrics import SEQUENCE_KINDS
from export.commands.verify import VerifySettings
from export.errors import GraphError, VerificationError
from export.language.calibration import load_examples
from export.sources.probes import PROMPTS
from export.verification import MAX_FLIPPED, least_sure
from train.data.tasks import Example, Task
from train.models import Generated, LanguageModel, open_language_model, weights_sha256

MAX_FLIPPED_QUANTIZED = 0.05
"""The default of `export lm --max-flips`: one differing token changes all that follow."""
_TOLERANCE = 1e-4
_Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison:
    """Differences between n answers of a decoder and those of the model.

    Attributes:
        other_tokens: bool [n], True where the tokens differ.
        difference: float64 [n], difference of the confidences; 0 if both are NaN, infinite if one
            is.
        flips: bool [n], True where the decisions differ and the confidence is not on the threshold.
        near: bool [n], True where the model's confidence is on the threshold.
        tolerance: Largest difference of the confidences allowed.
    """

    other_tokens: _Flags
    difference: npt.NDArray[np.float64]
    flips: _Flags
    near: _Flags
    tolerance: float

    @property
    def differing(self) -> _Flags:
        """True where an answer differs in tokens, confidence or decision, bool [n]."""
        return self.other_tokens | (self.difference > self.tolerance) | self.flips


def compare(
    answers: Sequence[Generation], expected: Generated, kind: str, threshold: float
) -> Comparison:
    """Compare complete answers of a decoder with those of the model to the same n prompts."""
    pairs = zip(answers, expected.tokens, expected.counted, strict=True)
    other = [list(answer.tokens) != tokens[counted].tolist() for answer, tokens, counted in pairs]
    wanted = expected.confidence(kind)
    got = np.array([answer.confidence for answer in answers])
    difference = np.where(np.isnan(got) & np.isnan(wanted), 0.0, np.abs(got - wanted))
    near = np.abs(wanted - threshold) <= _TOLERANCE
    flips = np.array([answer.defer for answer in answers]) != ~(wanted >= threshold)
    return Comparison(
        other_tokens=np.array(other, np.bool_),
        difference=np.where(np.isnan(difference), np.inf, difference),
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
    """Compare a decoder, run as it will be, with the exported model, and return the figures.

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
    error = float(found.difference.max(initial=0.0))
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


def verify_bundle(settings: VerifySettings) -> None:
    """Run a decoder on prompts, compare it with a checkpoint, and print the figures.

    The prompts are those of the task, or a few built-in ones without a task.

    Raises:
        BundleError: The bundle is damaged.
        SettingError: The settings are those of a classifier.
        VerificationError: Too many answers differ from the checkpoint's.
    """
    if settings.data is not None and settings.task is None:
        raise SettingError(
            f"expected --task TASK for the language model in {settings.bundle}, got --data alone"
        )
    decoder = Decoder(read_bundle(settings.bundle, contract.ROLE_DECODER))
    task: Task | None = None
    examples: Sequence[Example] = ()
    if settings.task is not None:
        task = load_examples(
            settings.split,
            settings.task,
            data=settings.data,
            seed=settings.seed,
            limit=settings.limit,
        )
        examples = task.splits()[settings.split]
    prompts = [example.prompt for example in examples] or list(PROMPTS)
    answers = decoder.generate(prompts, stop_when_certain=False)
    _print_answers(answers, task, examples)
    if settings.against is not None:
        _compare_with(settings, settings.against, decoder, prompts, answers)


def _print_answers(
    answers: Sequence[Generation], task: Task | None, examples: Sequence[Example]
) -> None:
    refused = sum(answer.ended == "refused" for answer in answers)
    print(f"prompts                    {len(answers)}, {refused} of them refused")
    if task is not None:
        right = [task.is_right(a.text, e) for a, e in zip(answers, examples, strict=True)]
        print(f"accuracy of the edge model {np.mean(right):.4f}")
    print(f"deferral ratio             {np.mean([a.defer for a in answers]):.4f}")
    print(f"tokens per answer          {np.mean([a.token_count for a in answers]):.1f}")


def _compare_with(
    settings: VerifySettings,
    against: Path,
    decoder: Decoder,
    prompts: Sequence[str],
    answers: Sequence[Generation],
) -> None:
    kind = decoder.metadata.confidence_kind
    if kind not in SEQUENCE_KINDS:
        raise GraphError(
            f"expected a confidence of {', '.join(SEQUENCE_KINDS)} with --against, "
            f"{settings.bundle} has {kind!r}: leave --against out"
        )
    model = open_language_model(against)
    expected = model.generate(prompts, decoder.settings.max_new_tokens)
    found = compare(answers, expected, kind, decoder.threshold)
    flips, differing = found.flips, found.differing
    is_quantized = contract.QUANTIZATION in decoder.metadata.extra
    if is_quantized:
        defer = np.array([answer.defer for answer in answers])
        flips = differing = defer != least_sure(expected.confidence(kind), int(defer.sum()))
    shift = found.difference
    print(f"answers of other tokens    {found.other_tokens.mean():.4f}")
    print(f"decision flips             {flips.mean():.4f}")
    print(f"confidence shift           mean {shift.mean():.2e}, largest {shift.max():.2e}")
    usual = MAX_FLIPPED_QUANTIZED if is_quantized else MAX_FLIPPED
    allowed = usual if settings.max_flips is None else settings.max_flips
    if differing.mean() <= allowed:
        return
    remedy = "the bundle was made from other weights, name its own checkpoint or export it again"
    if decoder.metadata.source_sha256 == weights_sha256(against):
        remedy = f"{'raise --max-flips, quantize less or ' if is_quantized else ''}export it again"
    raise VerificationError(
        f"expected at most {allowed:.1%} of the {'decisions' if is_quantized else 'answers'} to "
        f"differ from {against}, got {differing.mean():.2%}: {remedy}"
    )
