"""Measures the figures of `python -m benchmarks decoding`, one group at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.commands.language import DECODING_GROUPS, DecodingGroup, DecodingSettings
from benchmarks.figures import Figure, measure_groups
from benchmarks.language.promises.certainty import measure_certainty
from benchmarks.language.promises.memory import measure_memory
from benchmarks.language.promises.random_models import RandomModels
from benchmarks.language.promises.savings import measure_savings
from benchmarks.language.promises.story import measure_story
from benchmarks.language.promises.tokens import measure_tokens
from benchmarks.steps import step


def measure(settings: DecodingSettings) -> None:
    """Print the figures of the chosen groups, and write them if a file is named."""
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
    return measure_memory(models.bundles([case])[case], settings.seed, settings.generations)


_MEASURES: Final[dict[DecodingGroup, Callable[[RandomModels, DecodingSettings], list[Figure]]]] = {
    "tokens": lambda models, s: measure_tokens(models, s.prompts),
    "certainty": lambda models, s: measure_certainty(models, s.stops),
    "savings": lambda models, s: measure_savings(models.folder, s.seed, s.answers),
    "story": lambda models, _: measure_story(models.folder),
    "memory": _memory,
}
