"""Measures what quantization does to the time of a token, and to the size of a bundle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tqdm import tqdm

from benchmarks.figure import Figure
from benchmarks.generation.command import GenerationSettings
from benchmarks.generation.models import Made, quantized
from edge_runtime.decoding import Decoder

KINDS: Final = ("fp16", "int8-dynamic", "int4")
_FLOAT: Final = "float32"
_QUANTIZED_PROMPTS: Final = 8
_QUANTIZED_PROMPT_TOKENS: Final = 8


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
        made.request(_QUANTIZED_PROMPT_TOKENS, 1, settings.seed + number).text for number in range(_QUANTIZED_PROMPTS)
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
