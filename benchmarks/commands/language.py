"""Settings of the commands that measure text generation, and the tasks it is scored on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from benchmarks.commands.figures import ResultFile
from edge_runtime.cli import field

DecodingGroup = Literal["tokens", "certainty", "savings", "story", "memory"]
DECODING_GROUPS: tuple[DecodingGroup, ...] = get_args(DecodingGroup)
GenerationGroup = Literal["tokens", "overhead", "prefill", "quantized", "verdict"]
GENERATION_GROUPS: tuple[GenerationGroup, ...] = get_args(GenerationGroup)
WARM_UP = 100
"""Generations before memory counts."""


@dataclass(frozen=True, kw_only=True)
class DecodingSettings(ResultFile, does="benchmarks.language.promises.command:measure"):
    """Check exported language models against what generation on the device promises.

    The promises: the tokens of transformers' `generate`, confidences as computed in float64, no
    decision changed by stopping once the deferral is certain and the tokens that this saves, a
    published story word for word, and flat memory. Data and weights are read from the folder in
    the environment variable GATEKEEPER_DATA; a figure whose data are missing is left out and
    listed as such.

    Example: python -m benchmarks decoding --only tokens,certainty --out decoding.json
    """

    only: tuple[DecodingGroup, ...] = field(
        f"some of the groups {', '.join(DECODING_GROUPS)}", default=()
    )
    prompts: int = field("prompts of each architecture and confidence", default=500, least=1)
    stops: int = field("generations with and without the certain deferral", default=10_000, least=1)
    answers: int = field(
        "prompts of a corpus whose saved tokens are counted", default=1_000, least=1
    )
    generations: int = field("generations while memory is watched", default=1_000, least=WARM_UP)
    seed: int = field("seed of weights, prompts and thresholds", default=0, least=0)


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(ResultFile, does="benchmarks.language.speed.figures:measure"):
    """Print the speed of the gated decoder relative to optimum's generate and onnxruntime-genai.

    All generate the same tokens with the same weights, each in its own process on one thread, in
    alternating rounds. onnxruntime-genai has its own environment: make .venv-genai/.installed

    Example: python -m benchmarks generation --out generation.json
    """

    only: tuple[GenerationGroup, ...] = field(
        f"some of the groups {', '.join(GENERATION_GROUPS)}", default=()
    )
    rounds: int = field("alternating rounds of each comparison", default=20, least=1)
    tokens: int = field("tokens of a generation", default=128, within=(2, 256))
    seed: int = field("seed of weights and prompts", default=0, least=0)


@dataclass(frozen=True, kw_only=True)
class TasksSettings(ResultFile, does="benchmarks.tasks:measure"):
    """Read every task whole, and score its own right answers, in order and shuffled.

    The data are read from the folder in the environment variable GATEKEEPER_DATA.

    Example: python -m benchmarks tasks --out tasks.json
    """

    seed: int = field("seed of carved splits and of the shuffle", default=0, least=0)
