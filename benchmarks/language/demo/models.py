"""The language models of the demo: made and fitted, or the folders that were named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands.cascade import DemoSettings
from train.data.tasks import Task
from train.language.fit import FitLanguageSettings
from train.language.new import NewLanguageSettings
from train.language.rivals import CONTROL, UNTUNED
from train.language.tune import TuneLanguageSettings
from train.models import open_language_model

ALPHAS = (0.3, 0.5, 0.6)
"""Settings of Gatekeeper; which is taken is chosen on validation."""
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Made:
    """A Gemma that the demo makes itself, with as many weights as minutes of a CPU can fit.

    Attributes:
        shape: Settings of `NewLanguageSettings`.
        epochs: Of stage 1.
    """

    shape: dict[str, Any]
    epochs: int


SMALL = Made(
    shape={"width": 12, "layers": 1, "heads": 1, "kv_heads": 1, "inner": 48, "vocabulary": 2900},
    epochs=10,
)
"""37,000 weights."""
LARGE = Made(
    shape={"width": 96, "layers": 2, "heads": 4, "kv_heads": 1, "inner": 256, "vocabulary": 2900},
    epochs=6,
)
"""470,000 weights."""


def tuned_name(alpha: float) -> str:
    """Return what a model tuned with Gatekeeper is called."""
    return f"gatekeeper-{alpha:g}"


MODELS = (UNTUNED, CONTROL, *map(tuned_name, ALPHAS))
"""The checkpoints of every seed."""


def checkpoint(settings: DemoSettings, model: str, folder: Path) -> Path:
    """Return the folder of a model of a seed.

    Args:
        settings: Of the demo.
        model: One of `MODELS`.
        folder: The seed's.
    """
    if model != UNTUNED:
        return folder / model
    return folder / "small" if settings.small is None else Path(settings.small)


def fitted(
    settings: DemoSettings, task: Task, named: str | None, made: Made, out: Path, seed: int
) -> Path:
    """Return a model that was taught the task: the folder that was named, or one made for it."""
    if named is not None:
        return Path(named)
    assert settings.task is not None  # noqa: S101 - narrows the type: the demo of a task
    start = out.parent / f"{out.name}-new"
    NewLanguageSettings(
        architecture="gemma",
        context=128,
        task=settings.task,
        data=settings.task_data,
        seed=seed,
        out=start,
        **made.shape,
    ).run()
    FitLanguageSettings(
        checkpoint=start,
        task=settings.task,
        out=out,
        epochs=made.epochs,
        patience=made.epochs,
        batch_size=_BATCH,
        seed=seed,
    ).fit(open_language_model(start), task)
    return out


def tuned(settings: DemoSettings, task: Task, small: Path, folder: Path, seed: int) -> None:
    """Tune M_S into the control and every setting of Gatekeeper, all equally long."""
    assert settings.task is not None  # noqa: S101 - narrows the type: the demo of a task
    for name in MODELS[1:]:
        how: dict[str, Any] = {"objective": "cross_entropy"}
        if name != CONTROL:
            how = {"alpha": float(name.removeprefix("gatekeeper-"))}
        TuneLanguageSettings(
            checkpoint=small,
            task=settings.task,
            out=folder / name,
            batch_size=_BATCH,
            steps=settings.steps,
            seed=seed,
            **how,
        ).tune(open_language_model(small), task)
