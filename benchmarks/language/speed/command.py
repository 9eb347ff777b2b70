"""The command `python -m benchmarks generation`: what a token costs beside other decoders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

# MERGEDOC benchmarks/generation/__init__.py: 'Measures the speed of generation beside other ways to generate.'

GenerationGroup = Literal["tokens", "overhead", "prefill", "quantized", "verdict"]
GENERATION_GROUPS: tuple[GenerationGroup, ...] = get_args(GenerationGroup)
_FEWEST, _MOST = 2, 256


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(Command):
    """Print the speed of the gated decoder beside optimum's generate and onnxruntime-genai.

    All generate the same tokens with the same weights, each in a process of its own on one thread,
    in alternating rounds. onnxruntime-genai has an environment of its own:
    make .venv-genai/.installed

    Example: python -m benchmarks generation --out generation.json
    """

    only: tuple[GenerationGroup, ...] = field(
        f"some of the groups {', '.join(GENERATION_GROUPS)}", default=()
    )
    rounds: int = field("alternating rounds of each comparison", default=20)
    tokens: int = field("tokens of a generation", default=128)
    seed: int = field("seed of weights and prompts", default=0)
    out: Path | None = field("write the result here as JSON", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1:
            raise SettingError(f"expected --rounds of at least 1, got {self.rounds}")
        if not _FEWEST <= self.tokens <= _MOST:
            raise SettingError(
                f"expected --tokens of at least {_FEWEST} and at most {_MOST}, got {self.tokens}"
            )
        # Minutes later would be a bad moment to find out.
        if self.out is not None and not self.out.absolute().parent.is_dir():
            raise SettingError(f"expected a folder that is there for --out, got {self.out}")

    def run(self) -> None:
        """Print a line a figure as soon as it is measured."""
        from benchmarks.language.speed.figures import measure

        measure(self)
