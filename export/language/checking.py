"""What `python -m export verify` does with a language model's bundle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime import contract
from edge_runtime.bundle import read_bundle
from edge_runtime.language import Decoder, Generation
from edge_runtime.metrics import SEQUENCE_KINDS
from export.classifier.verification import MAX_FLIPPED
from export.commands.verify import VerifySettings, least_sure
from export.errors import GraphError, VerificationError
from export.language.calibration import task_with
from export.language.verification import compare
from export.sources.probes import PROMPTS
from train.data.tasks import Example, Task
from train.models import Generated, open_language_model, weights_sha256

MAX_FLIPPED_QUANTIZED = 0.05
"""As `export lm --max-flips` has it: one token that differs changes all that follow."""


def verify_answers(settings: VerifySettings) -> None:
    """Run a decoder on a task's prompts, and hold it to a checkpoint; print the figures.

    Without a task the prompts are a few that were made up.

    Raises:
        BundleError: The bundle is damaged.
        VerificationError: Too many answers differ from the checkpoint's.
    """
    decoder = Decoder(read_bundle(settings.bundle, contract.ROLE_DECODER))
    task = None if settings.task is None else _task(settings)
    examples = () if task is None else task.splits()[settings.split]
    prompts = [example.prompt for example in examples] or list(PROMPTS)
    answers = decoder.generate(prompts, stop_when_certain=False)
    _say(answers, task, examples)
    if settings.against is not None:
        _hold(settings, decoder, prompts, answers)


def _task(settings: VerifySettings) -> Task:
    return task_with(
        settings.split,
        settings.task or "",
        data=settings.data,
        seed=settings.seed,
        limit=settings.limit,
    )


def _say(answers: Sequence[Generation], task: Task | None, examples: Sequence[Example]) -> None:
    refused = sum(answer.ended == "refused" for answer in answers)
    print(f"prompts                    {len(answers)}, {refused} of them refused")
    if task is not None:
        right = [task.is_right(a.text, e) for a, e in zip(answers, examples, strict=True)]
        print(f"accuracy of the edge model {np.mean(right):.4f}")
    print(f"deferral ratio             {np.mean([a.defer for a in answers]):.4f}")
    print(f"tokens an answer           {np.mean([a.token_count for a in answers]):.1f}")


def _hold(
    settings: VerifySettings,
    decoder: Decoder,
    prompts: Sequence[str],
    answers: Sequence[Generation],
) -> None:
    assert settings.against is not None  # noqa: S101 - the caller checked
    kind = decoder.metadata.confidence_kind
    if kind not in SEQUENCE_KINDS:
        raise GraphError(
            f"expected a confidence of {', '.join(SEQUENCE_KINDS)} with --against, "
            f"{settings.bundle} has {kind!r}: leave --against out"
        )
    model = open_language_model(settings.against)
    expected = model.generate(prompts, decoder.settings.max_new_tokens)
    found = compare(answers, expected, kind, decoder.threshold)
    flips, differing = found.flips, found.differing
    is_quantized = contract.QUANTIZATION in decoder.metadata.extra
    if is_quantized:
        # Its threshold was chosen on its own confidences: compare at the same deferral ratio.
        flips = differing = _flips_at_its_ratio(answers, expected, kind)
    print(f"answers of other tokens    {found.other_tokens.mean():.4f}")
    print(f"decision flips             {flips.mean():.4f}")
    shift = found.apart
    print(f"confidence shift           mean {shift.mean():.2e}, largest {shift.max():.2e}")
    usual = MAX_FLIPPED_QUANTIZED if is_quantized else MAX_FLIPPED
    allowed = usual if settings.max_flips is None else settings.max_flips
    if differing.mean() > allowed:
        raise VerificationError(
            f"expected at most {allowed:.1%} of the {'decisions' if is_quantized else 'answers'} "
            f"to differ from {settings.against}, got {differing.mean():.2%}: "
            f"{_mend(settings, decoder, is_quantized=is_quantized)}"
        )


def _flips_at_its_ratio(
    answers: Sequence[Generation], expected: Generated, kind: str
) -> np.typing.NDArray[np.bool_]:
    defer = np.array([answer.defer for answer in answers])
    theirs: np.typing.NDArray[np.bool_] = least_sure(expected.confidence(kind), int(defer.sum()))
    return defer != theirs


def _mend(settings: VerifySettings, decoder: Decoder, *, is_quantized: bool) -> str:
    assert settings.against is not None  # noqa: S101 - the caller checked
    if decoder.metadata.source_sha256 == weights_sha256(settings.against):
        more = "raise --max-flips, quantize less or " if is_quantized else ""
        return f"{more}export it again"
    return "the bundle was made of other weights, name its own checkpoint or export it again"
