"""Measures the figures of `decoding`, a group at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.decoding.certainty_figures import certainty_figures
from benchmarks.decoding.command import GROUPS, DecodingSettings, Group
from benchmarks.decoding.made import RandomModels
from benchmarks.decoding.memory_figures import memory_figures
from benchmarks.decoding.saving_figures import saving_figures
from benchmarks.decoding.story_figures import story_figures
from benchmarks.decoding.token_figures import token_figures
from benchmarks.figure import Figure, write_figures
from benchmarks.steps import step
from edge_runtime.environment import hardware


def measure(settings: DecodingSettings) -> None:
    """Print every figure, and write them where asked."""
    machine = hardware()
    print(f"{machine['cores']} cores of {machine['processor']}", flush=True)
    figures: list[Figure] = []
    groups = settings.only or GROUPS
    with tempfile.TemporaryDirectory() as folder:
        models = RandomModels(Path(folder), settings.seed)
        if {"tokens", "certainty"} & set(groups):
            with step("export of every architecture with every confidence"):
                models.bundles()
        for group in groups:
            with step(group):
                measured = _MEASURES[group](models, settings)
                print(*(figure.line() for figure in measured), sep="\n")
            figures += measured
    missed = sum(figure.is_met is False for figure in figures)
    print(f"{len(figures)} figures, {missed} missed")
    if settings.out is not None:
        write_figures(settings.out, figures)


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
