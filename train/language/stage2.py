"""Stage 2 of a language model: warnings before it, and what the user gets after it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from train.data.tasks import Example, Task
from train.language.encoding import IGNORED, TokenData, answer_tokens
from train.language.guard import ASKED
from train.language.loop import Recipe, second_rate, train_language_model
from train.language.trainer import TokenCrossEntropy, TokenGatekeeper
from train.language.tune import TuneLanguageSettings
from train.models import LanguageModel
from train.training.health import Standing, report, warnings_before
from train.training.output import refuse_existing, settings_record
from train.training.schedule import Schedule, move_model

_LOOKED_AT = 1024
_BATCH = 32


def tune(
    settings: TuneLanguageSettings,
    start: LanguageModel,
    task: Task,
    large: LanguageModel | None = None,
) -> str | None:
    """Tune a language model and write it to `settings.out`; say what was found on the way.

    Args:
        settings: How.
        start: M_S; its weights are changed.
        task: Tuned on `train`, watched on `validation`.
        large: M_L, to say what the user gets.

    Returns:
        Why the guard ended the run, or None.

    Raises:
        TrainError: As `train_language_model`.
    """
    refuse_existing(settings.out, overwrite=settings.overwrite)
    move_model(start.model, settings.device)
    if settings.stage2_data == "holdout":
        task = _held_out(task)
    if settings.objective == "gatekeeper":
        _warn(settings.alpha, right_tokens(start, task.train[:_LOOKED_AT]))
    rate = settings.learning_rate or second_rate(
        settings.checkpoint, lora=settings.lora is not None
    )
    asked = task.limited(ASKED).validation
    before = _standing(start, task, asked)
    tuned, reason = train_language_model(
        start,
        task,
        _recipe(settings, rate),
        out=settings.out,
        resume=settings.resume,
        overwrite=settings.overwrite,
        record={**settings_record("tune-lm", settings), "learning_rate": rate},
    )
    after = _standing(tuned, task, asked)
    quality = None if large is None else _standing(large, task, asked).right
    report(before, after, quality, f"validation, {len(asked)} examples")
    return reason


def _held_out(task: Task) -> Task:
    """Take every other validation example to tune on, and watch the rest."""
    held, rest = task.validation[::2], task.validation[1::2]
    print(
        f"stage 2 on {len(held)} held-out examples instead of {len(task.train)}; that costs "
        f"validation {len(held)} of its {len(task.validation)}",
        flush=True,
    )
    return dataclasses.replace(task, train=held, validation=rest)


def _warn(alpha: float, right: npt.NDArray[np.bool_]) -> None:
    for line in warnings_before(alpha, right, what="tokens", remedy="--stage2-data holdout"):
        print(f"warning: {line}", file=sys.stderr)


def _recipe(settings: TuneLanguageSettings, rate: float) -> Recipe:
    gatekeeper = settings.objective == "gatekeeper"
    return Recipe(
        objective=TokenGatekeeper(settings.alpha) if gatekeeper else TokenCrossEntropy(),
        schedule=Schedule(
            steps=settings.steps,
            batch_size=settings.batch_size,
            accumulation=settings.accumulation,
            learning_rate=rate,
            weight_decay=0.0,
            scheduler="cosine",
            precision=settings.precision,
            device=settings.device,
            checkpointing=settings.gradient_checkpointing,
            seed=settings.seed,
        ),
        tokens=settings.tokens,
        normalize=settings.normalize,
        lora=settings.lora,
        guarded=settings.guard,
    )


def right_tokens(model: LanguageModel, examples: Sequence[Example]) -> npt.NDArray[np.bool_]:
    """Return bool [tokens]: which tokens of the completions a model predicts, given those before.

    Args:
        model: The model.
        examples: What it is shown.
    """
    data = TokenData(model, examples)
    parts = []
    with torch.inference_mode():
        for first in range(0, len(data), _BATCH):
            batch = data.__getitems__(range(first, min(first + _BATCH, len(data))))
            batch = {name: values.to(model.model.device) for name, values in batch.items()}
            labels = batch.pop("labels")
            counted = labels != IGNORED
            logits = model.model(**batch).logits
            parts.append((logits.argmax(dim=-1) == labels)[counted].cpu().numpy())
    return np.concatenate(parts)


def _standing(model: LanguageModel, task: Task, examples: Sequence[Example]) -> Standing:
    generated = model.generate([e.prompt for e in examples], answer_tokens(model.tokenizer, task))
    right = [task.is_right(text, e) for text, e in zip(generated.texts, examples, strict=True)]
    return Standing(generated.confidence("neg_entropy"), np.array(right, float))
