"""Trained models with prompts that suit them: two published tasks, and stories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.language.demo.models import SMALL
from benchmarks.language.promises.random_models import export_all
from edge_runtime.metrics import SEQUENCE_KINDS
from export.commands.language import LanguageSettings
from train.data.tasks import SOURCES, load_task
from train.data.tasks.sources import data_folder
from train.errors import DataError
from train.language.settings import (
    ConvertLanguageSettings,
    FitLanguageSettings,
    NewLanguageSettings,
)
from train.models import open_language_model

RATIO: Final = 0.3
"""Deferral ratio that the bundles of tasks are calibrated for."""
STORIES: Final = "stories260k"
_CONTEXT: Final = 256
_MODELS: Final[dict[str, tuple[dict[str, Any], int]]] = {
    "clinc150": (SMALL.shape, 64),
    # The demo's own shape gives the same answer to everything, a number of one token.
    "svamp": (
        SMALL.shape | {"width": 32, "layers": 2, "heads": 2, "inner": 128, "vocabulary": 500},
        32,
    ),
}
"""Shape and batch size by task."""
TASKS: Final = tuple(_MODELS)
_STORY_TOKENS: Final = 64
_WHEN: Final = (
    "Once upon a time, there was",
    "One day, there was",
    "Long ago, there was",
    "In a big house lived",
    "In the park was",
)
_WHO: Final = (
    *("a little girl named Lily", "a little boy named Tim", "a big dog named Max", "a cat"),
    *("a small bird", "a brown bear", "a green frog", "a red fish", "an old man", "a farmer"),
    *("a silly duck", "a happy family", "a sad tree", "a kind queen", "a lion named Leo"),
)
_WHAT: Final = (
    *("who liked to play.", "who lost a ball.", "who wanted to go home.", "and it was cold."),
    *("with a new toy.", "near the water.", "who saw a", "and a box. Mom said,"),
)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A model's bundles, and prompts that suit it.

    Attributes:
        name: The data set that the model was trained on.
        bundles: Bundles by confidence.
        calibration: Prompts for the choice of thresholds.
        test: Prompts for the counts.
        model: Description of the model.
    """

    name: str
    bundles: dict[str, Path]
    calibration: Sequence[str]
    test: Sequence[str]
    model: str


def task_corpus(name: str, folder: Path, seed: int, limit: int) -> Corpus:
    """Train a small Gemma on a task, and export it, calibrated on the task's validation data.

    Args:
        name: One of `TASKS`.
        folder: Folder for checkpoints and bundles.
        seed: Seed of the weights and of the order of the data.
        limit: Most test prompts.

    Raises:
        DataError: The data are not on this machine.
    """
    if not (data_folder() / SOURCES[name].folder).is_dir():  # nothing is downloaded
        raise DataError(f"no data of {name} under {data_folder()}")
    task = load_task(name, seed=seed)
    small = _train(name, folder, seed)
    bundles = _bundles(folder, small, calibrate=name, target_deferral=RATIO, seed=seed)
    return Corpus(
        name=name,
        bundles=bundles,
        calibration=[example.prompt for example in task.validation],
        test=[example.prompt for example in task.test][:limit],
        model=f"a Gemma of {open_language_model(small).weights:,} weights trained for "
        f"{SMALL.epochs} epochs",
    )


def _train(name: str, folder: Path, seed: int) -> Path:
    new, small = folder / "new", folder / "small"
    shape, batch = _MODELS[name]
    NewLanguageSettings(
        architecture="gemma", context=_CONTEXT, task=name, seed=seed, out=new, **shape
    ).run()
    FitLanguageSettings(
        checkpoint=new,
        task=name,
        out=small,
        epochs=SMALL.epochs,
        patience=SMALL.epochs,
        batch_size=batch,
        seed=seed,
    ).run()
    return small


def stories_corpus(folder: Path, limit: int) -> Corpus:
    """Convert and export `stories260K`; its prompts are beginnings of stories.

    Args:
        folder: Folder for the checkpoint and bundles.
        limit: Most prompts for calibration and for the test.

    Raises:
        DataError: Weights or tokenizer are not on this machine.
    """
    openings = story_openings()
    half = len(openings) // 2
    return Corpus(
        name=STORIES,
        bundles=_bundles(
            folder, stories_checkpoint(folder), threshold=0.0, max_new_tokens=_STORY_TOKENS
        ),
        calibration=openings[:half][:limit],
        test=openings[half:][:limit],
        model=f"the published weights, answers of at most {_STORY_TOKENS} tokens",
    )


def stories_checkpoint(folder: Path) -> Path:
    """Convert the published weights of `stories260K`; return the checkpoint's folder.

    Raises:
        DataError: Weights or tokenizer are not on this machine.
    """
    weights, out = data_folder() / "weights" / STORIES, folder / "stories"
    if not weights.is_dir():
        raise DataError(f"no weights of {STORIES} under {data_folder()}")
    if not out.exists():
        ConvertLanguageSettings(
            weights=weights / "stories260K.bin", tokenizer=weights / "tok512.bin", out=out
        ).run()
    return out


def story_openings(seed: int = 0) -> list[str]:
    """Return 600 different beginnings of stories in random order."""
    openings = [" ".join(words) for words in product(_WHEN, _WHO, _WHAT)]
    return [openings[i] for i in np.random.default_rng(seed).permutation(len(openings))]


def _bundles(folder: Path, checkpoint: Path, **settings: Any) -> dict[str, Path]:
    places = {kind: folder / kind for kind in SEQUENCE_KINDS}
    export_all(
        [
            LanguageSettings(checkpoint=checkpoint, confidence=kind, out=place, **settings)  # type: ignore[arg-type]  # a text that is one of the literals
            for kind, place in places.items()
        ]
    )
    return places
