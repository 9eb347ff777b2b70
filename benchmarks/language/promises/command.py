"""The command `python -m benchmarks decoding`: what a generation on the device promises."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.commands.language import DECODING_GROUPS, DecodingGroup, DecodingSettings
from benchmarks.figures import Figure, measure_groups
from benchmarks.language.promises.certainty import certainty_figures
from benchmarks.language.promises.memory import memory_figures
from benchmarks.language.promises.random_models import RandomModels
from benchmarks.language.promises.savings import saving_figures
from benchmarks.language.promises.story import story_figures
from benchmarks.language.promises.tokens import token_figures
from benchmarks.steps import step

# MERGEDOC benchmarks/decoding/figures.py: 'Measures the figures of `decoding`, a group at a time.'
# MERGEDOC benchmarks/decoding/__init__.py: 'Measures what a generation on the device promises, on graphs that `export lm` wrote.'


def measure(settings: DecodingSettings) -> None:
    """Print every figure, and write them where asked."""
    groups = settings.only or DECODING_GROUPS
    with tempfile.TemporaryDirectory() as folder:
        models = RandomModels(Path(folder), settings.seed)
        if {"tokens", "certainty"} & set(groups):
            with step("export of every architecture with every confidence"):
                models.bundles()
        measure_groups(
            {group: partial(_MEASURES[group], models, settings) for group in groups}, settings.out
        )


def _memory(models: RandomModels, settings: DecodingSettings) -> list[Figure]:
    case = models.architectures[0], models.kinds[0]
    return memory_figures(models.bundles([case])[case], settings.seed, settings.generations)


_MEASURES: Final[dict[DecodingGroup, Callable[[RandomModels, DecodingSettings], list[Figure]]]] = {
    "tokens": lambda models, s: token_figures(models, s.prompts),
    "certainty": lambda models, s: certainty_figures(models, s.stops),
    "savings": lambda models, s: saving_figures(models.folder, s.seed, s.answers),
    "story": lambda models, _: story_figures(models.folder),
    "memory": _memory,
}
