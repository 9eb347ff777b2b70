"""Measures the figures of `decoding`, a group at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.decoding.certainty_figures import certainty_figures
from benchmarks.decoding.command import GROUPS, DecodingSettings, Group
from benchmarks.decoding.made import RandomModels
from benchmarks.decoding.memory_figures import memory_figures
from benchmarks.decoding.saving_figures import saving_figures
from benchmarks.decoding.story_figures import story_figures
from benchmarks.decoding.token_figures import token_figures
from benchmarks.figure import Figure
from benchmarks.groups import measure_groups
from benchmarks.steps import step


def measure(settings: DecodingSettings) -> None:
    """Print every figure, and write them where asked."""
    groups = settings.only or GROUPS
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


_MEASURES: Final[dict[Group, Callable[[RandomModels, DecodingSettings], list[Figure]]]] = {
    "tokens": lambda models, s: token_figures(models, s.prompts),
    "certainty": lambda models, s: certainty_figures(models, s.stops),
    "savings": lambda models, s: saving_figures(models.folder, s.seed, s.answers),
    "story": lambda models, _: story_figures(models.folder),
    "memory": _memory,
}
