"""The command `python -m benchmarks decoding`: what a generation on the device promises."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edge_runtime.cli import field
from edge_runtime.errors import SettingError

Group = Literal["tokens", "certainty", "savings", "story", "memory"]
GROUPS: tuple[Group, ...] = get_args(Group)
_WARM_UP = 100


@dataclass(frozen=True, kw_only=True)
class DecodingSettings:
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
        from benchmarks.decoding.figures import measure

        measure(self)
