"""Trained models with prompts of their kind: two published tasks, and stories."""

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
"""The deferral ratio that bundles of tasks are calibrated for."""
STORIES: Final = "stories260k"
_CONTEXT: Final = 256
_TAUGHT: Final[dict[str, tuple[dict[str, Any], int]]] = {
    "clinc150": (SMALL.shape, 64),
    # With the demo's own shape it gives one answer to everything, a number of one token.
    "svamp": (
        SMALL.shape | {"width": 32, "layers": 2, "heads": 2, "inner": 128, "vocabulary": 500},
        32,
    ),
}
"""Shape and size of batches."""
TASKS: Final = tuple(_TAUGHT)
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
    """A model's bundles, and prompts of two kinds.

    Attributes:
        name: What it was taught.
        bundles: By confidence.
        calibration: Prompts that thresholds are chosen on.
        test: Prompts that are counted.
        model: What is asked, in words.
    """

    name: str
    bundles: dict[str, Path]
    calibration: Sequence[str]
    test: Sequence[str]
    model: str


def task_corpus(name: str, folder: Path, seed: int, most: int) -> Corpus:
    """Teach a small Gemma a task, and export it calibrated on the task's validation.

    Args:
        name: One of `TASKS`.
        folder: Where checkpoints and bundles go.
        seed: Of weights and order.
        most: The most prompts of each kind.

    Raises:
        DataError: The data are not at hand.
    """
    if not (data_folder() / SOURCES[name].folder).is_dir():  # nothing is fetched
        raise DataError(f"no data of {name} under {data_folder()}")
    task = load_task(name, seed=seed)
    small = _taught(name, folder, seed)
    bundles = _bundles(folder, small, calibrate=name, target_deferral=RATIO, seed=seed)
    return Corpus(
        name=name,
        bundles=bundles,
        calibration=[example.prompt for example in task.validation],
        test=[example.prompt for example in task.test][:most],
        model=f"a Gemma of {open_language_model(small).weights:,} weights taught for "
        f"{SMALL.epochs} epochs",
    )


def _taught(name: str, folder: Path, seed: int) -> Path:
    new, small = folder / "new", folder / "small"
    shape, batch = _TAUGHT[name]
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


def stories_folder() -> Path:
    """Return where the published weights and tokenizer of `stories260K` are.

    Raises:
        DataError: They are not at hand.
    """
    folder = data_folder() / "weights" / STORIES
    if not folder.is_dir():
        raise DataError(f"no weights of {STORIES} under {data_folder()}")
    return folder


def stories_corpus(folder: Path, most: int) -> Corpus:
    """Convert and export `stories260K`; its prompts are beginnings of stories.

    Args:
        folder: Where checkpoint and bundles go.
        most: The most prompts of each kind.

    Raises:
        DataError: Weights or tokenizer are not at hand.
    """
    openings = story_openings()
    half = len(openings) // 2
    return Corpus(
        name=STORIES,
        bundles=_bundles(
            folder, stories_checkpoint(folder), threshold=0.0, max_new_tokens=_STORY_TOKENS
        ),
        calibration=openings[:half][:most],
        test=openings[half:][:most],
        model=f"the published weights, answers of at most {_STORY_TOKENS} tokens",
    )


def stories_checkpoint(folder: Path) -> Path:
    """Convert `stories260K` and return its folder.

    Raises:
        DataError: Weights or tokenizer are not at hand.
    """
    weights, out = stories_folder(), folder / "stories"
    if not out.exists():
        ConvertLanguageSettings(
            weights=weights / "stories260K.bin", tokenizer=weights / "tok512.bin", out=out
        ).run()
    return out


def story_openings(seed: int = 0) -> list[str]:
    """Return 600 different beginnings of stories in random order."""
    every = [" ".join(words) for words in product(_WHEN, _WHO, _WHAT)]
    return [every[at] for at in np.random.default_rng(seed).permutation(len(every))]


def _bundles(folder: Path, checkpoint: Path, **how: Any) -> dict[str, Path]:
    places = {kind: folder / kind for kind in SEQUENCE_KINDS}
    export_all(
        [
            LanguageSettings(checkpoint=checkpoint, confidence=kind, out=place, **how)  # type: ignore[arg-type]  # one of them
            for kind, place in places.items()
        ]
    )
    return places
