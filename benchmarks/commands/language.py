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
"""Generations after which every kind of call has seen every prompt: the memory's baseline."""


@dataclass(frozen=True, kw_only=True)
class DecodingSettings(ResultFile, does="benchmarks.language.promises.figures:measure"):
    """Check exported language models against the guarantees of generation on the device.

    The guarantees: the tokens of transformers' `generate`, confidences as computed in float64, no
    decision changed by stopping once the deferral is certain, a published story word for word, and
    flat memory. The savings of the early stop are counted as well. Data and weights are read from
    the folder in the environment variable GATEKEEPER_DATA; a figure whose data are missing is left
    out, with a line that says so.

    Example: python -m benchmarks decoding --only tokens,certainty --out decoding.json
    """

    only: tuple[DecodingGroup, ...] = field("groups to measure, all if not given", default=())
    prompts: int = field("prompts for each architecture and confidence", default=500, least=1)
    stops: int = field(
        "generations with and without the early stop, over all graphs together",
        default=10_000,
        least=1,
    )
    answers: int = field(
        "most test prompts of a data set whose saved tokens are counted", default=1_000, least=1
    )
    generations: int = field(
        f"generations while memory is watched; growth counts after the first {WARM_UP}",
        default=1_000,
        least=WARM_UP,
    )
    seed: int = field("seed of weights, prompts and thresholds", default=0, least=0)


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(ResultFile, does="benchmarks.language.speed.figures:measure"):
    """Compare the speed of the gated decoder with optimum's generate and onnxruntime-genai.

    All engines generate the same tokens with the same weights, each in a process of its own on one
    thread, in alternating rounds. onnxruntime-genai has an environment of its own:
    make .venv-genai/.installed

    Example: python -m benchmarks generation --out generation.json
    """

    only: tuple[GenerationGroup, ...] = field("groups to measure, all if not given", default=())
    rounds: int = field(
        "alternating rounds of each comparison; fewer are quicker and noisier", default=20, least=1
    )
    tokens: int = field(
        "tokens per generation, the mean of which is the time per token",
        default=128,
        within=(2, 256),
    )
    seed: int = field("seed of weights and prompts", default=0, least=0)


@dataclass(frozen=True, kw_only=True)
class TasksSettings(ResultFile, does="benchmarks.tasks:measure"):
    """Read every task whole, and score its own right answers, in order and shuffled.

    The data are read from the folder in the environment variable GATEKEEPER_DATA.

    Example: python -m benchmarks tasks --out tasks.json
    """

    seed: int = field("seed of carved splits and of the shuffle", default=0, least=0)
