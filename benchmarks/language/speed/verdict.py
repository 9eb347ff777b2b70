"""Measures the time to a verdict: what the edge answers, what it defers, what the cloud says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Final

from tqdm import tqdm

from benchmarks.commands.language import GenerationSettings
from benchmarks.figures import Figure
from benchmarks.language.speed.latency import WORDS, Plan, Timed, time_each_kind
from benchmarks.language.speed.models import Made, quantized
from benchmarks.processes import running_server
from edge_runtime.language import Decoder

# MERGEDOC benchmarks/generation/quantized_figures.py: 'Measures what quantization does to the time of a token, and to the size of a bundle.'

_PROMPTS: Final = 10
_PROMPT_TOKENS: Final = 16
ANSWER_TOKENS: Final = 64
_DEADLINE_S: Final = 60.0

KINDS: Final = ("fp16", "int8-dynamic", "int4")
_FLOAT: Final = "float32"
_QUANTIZED_PROMPTS: Final = 8
_QUANTIZED_PROMPT_TOKENS: Final = 8


def verdict_figures(made: Made, settings: GenerationSettings) -> list[Figure]:
    """Return the times of each kind of call; M_L is the same model, served by `cloud_stub`."""
    prompts = [
        made.request(_PROMPT_TOKENS, 1, settings.seed + number).text for number in range(_PROMPTS)
    ]
    line = ["cloud_stub", "--checkpoint", str(made.checkpoint), "--port", "0", "--threads", "1"]
    with running_server([*line, "--max-new-tokens", str(ANSWER_TOKENS)]) as address:
        plan = Plan(
            bundle=made.bundle,
            prompts=prompts,
            calls=settings.rounds,
            threads=1,
            cloud=address,
            deadline_s=_DEADLINE_S,
        )
        _, timed = time_each_kind(plan)
    return [_figure(WORDS[kind], calls, made.size) for kind, calls in timed.items()]


def _figure(words: str, calls: list[Timed], size: str) -> Figure:
    tokens = fmean(call.tokens for call in calls)
    counted = "" if isnan(tokens) else f"{tokens:.1f} tokens, "
    return Figure.of(
        f"time to verdict or text: {words}",
        [call.total_s * 1e3 for call in calls],
        None,
        "ms",
        f"{counted}{_PROMPT_TOKENS} of prompt, untrained weights, {size}, 1 thread",
    )


def quantized_figures(
    made: Made, folder: Path, settings: GenerationSettings, kinds: Sequence[str] = KINDS
) -> list[Figure]:
    """Return the time of a token of each quantized bundle over that of the float one.

    Their tokens may be others: what is compared is the time of each further token of an answer.

    Args:
        made: The model.
        folder: Exists; gets the quantized bundles.
        settings: Rounds, tokens and seed.
        kinds: Of quantization.
    """
    prompts = [
        made.request(_QUANTIZED_PROMPT_TOKENS, 1, settings.seed + number).text
        for number in range(_QUANTIZED_PROMPTS)
    ]
    bundles = {_FLOAT: made.bundle} | {
        kind: quantized(made, kind, folder, prompts) for kind in kinds
    }
    decoders = {name: Decoder.open(path, threads=1) for name, path in bundles.items()}
    turns: dict[str, list[float]] = {name: [] for name in decoders}
    for i in tqdm(range(settings.rounds + 1), desc="rounds", leave=False, disable=None):
        for name, decoder in decoders.items():
            took_ms = _token_ms(decoder, prompts[i % _QUANTIZED_PROMPTS], settings.tokens)
            if i:  # the first round warms up
                turns[name].append(took_ms)
    sizes = {name: _size(path) for name, path in bundles.items()}
    return [_quantized_figure(kind, turns, sizes, made.size) for kind in kinds]


def _token_ms(decoder: Decoder, prompt: str, tokens: int) -> float:
    (answer,) = decoder.generate([prompt], tokens, -math.inf, stop_when_certain=False)
    return answer.timings.per_token_s * 1e3


def _size(bundle: Path) -> float:
    return sum(file.stat().st_size for file in bundle.glob("model.onnx*")) / 1e6


def _quantized_figure(
    kind: str, turns: dict[str, list[float]], sizes: dict[str, float], model: str
) -> Figure:
    ratios = [ours / whole for ours, whole in zip(turns[kind], turns[_FLOAT], strict=True)]
    ours, whole = (sorted(turns[name])[len(ratios) // 2] for name in (kind, _FLOAT))
    detail = (
        f"{ours:.3g} and {whole:.3g} ms; {sizes[kind]:.1f} and {sizes[_FLOAT]:.1f} MB; each "
        f"further token of an answer, {model}, 1 thread"
    )
    return Figure.of(f"time per token, {kind} / float32", ratios, None, "x", detail)
