"""The command `python -m benchmarks decoding`: what a generation on the device promises."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal, get_args

from benchmarks.figures import Figure, measure_groups
from benchmarks.language.promises.certainty import certainty_figures
from benchmarks.language.promises.memory import memory_figures
from benchmarks.language.promises.random_models import RandomModels
from benchmarks.language.promises.savings import saving_figures
from benchmarks.language.promises.story import story_figures
from benchmarks.language.promises.tokens import token_figures
from benchmarks.steps import step
from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

# MERGEDOC benchmarks/decoding/figures.py: 'Measures the figures of `decoding`, a group at a time.'
# MERGEDOC benchmarks/decoding/__init__.py: 'Measures what a generation on the device promises, on graphs that `export lm` wrote.'

Group = Literal["tokens", "certainty", "savings", "story", "memory"]
GROUPS: tuple[Group, ...] = get_args(Group)
_WARM_UP = 100


@dataclass(frozen=True, kw_only=True)
class DecodingSettings(Command):
    """Hold exported language models to what generation on the device promises.

    Tokens as transformers' `generate` gives them, confidences as float64 does, no decision changed
    by ending where the deferral is certain and what that saves, a published story, flat memory.
    Data and weights are those under the environment variable GATEKEEPER_DATA; what lacks its own is
    left out, and says so.

    Example: python -m benchmarks decoding --only tokens,certainty --out decoding.json
    """

    only: tuple[Group, ...] = field(f"some of the groups {', '.join(GROUPS)}", default=())
    prompts: int = field("prompts of each architecture and confidence", default=500)
    stops: int = field("generations with and without the certain deferral", default=10_000)
    answers: int = field("prompts of a corpus whose saved tokens are counted", default=1_000)
    generations: int = field("generations while memory is watched", default=1_000)
    seed: int = field("seed of weights, prompts and thresholds", default=0)
    out: Path | None = field("write the result here as JSON", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (
            ("prompts", 1),
            ("stops", 1),
            ("answers", 1),
            ("generations", _WARM_UP),
        ):
            if getattr(self, name) < least:
                got = getattr(self, name)
                raise SettingError(f"expected --{name} of at least {least}, got {got}")
        # Minutes later would be a bad moment to find out.
        if self.out is not None and not self.out.absolute().parent.is_dir():
            raise SettingError(f"expected a folder that is there for --out, got {self.out}")

    def run(self) -> None:
        """Print a line a figure, a group at a time."""
        measure(self)


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
