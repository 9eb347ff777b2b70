"""Times our decoder alone: to its decision or the cloud's text, and with quantized weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Final

from tqdm.auto import tqdm

from benchmarks.commands.language import GenerationSettings
from benchmarks.figures import Figure
from benchmarks.language.speed.latency import TITLES, CallTimes, Plan, time_each_kind
from benchmarks.language.speed.models import ModelForms, quantize
from benchmarks.processes import running_server
from edge_runtime.language import Decoder

ANSWER_TOKENS: Final = 64
KINDS: Final = ("fp16", "int8-dynamic", "int4")
_PROMPTS: Final = 10
_PROMPT_TOKENS: Final = 16
_DEADLINE_S: Final = 60.0
_FLOAT: Final = "float32"
_QUANTIZED_PROMPTS: Final = 8
_QUANTIZED_PROMPT_TOKENS: Final = 8


def measure_verdict(forms: ModelForms, settings: GenerationSettings) -> list[Figure]:
    """Return the times of each kind of call; M_L is the same model, served by `cloud_stub`."""
    prompts = _prompts(forms, _PROMPTS, _PROMPT_TOKENS, settings)
    words = ["cloud_stub", "--checkpoint", str(forms.checkpoint), "--port", "0", "--threads", "1"]
    with running_server([*words, "--max-new-tokens", str(ANSWER_TOKENS)]) as address:
        plan = Plan(
            bundle=forms.bundle,
            prompts=prompts,
            calls=settings.rounds,
            threads=1,
            cloud=address,
            deadline_s=_DEADLINE_S,
        )
        _, times = time_each_kind(plan)
    return [_figure(TITLES[kind], calls, forms.size) for kind, calls in times.items()]


def _prompts(forms: ModelForms, count: int, length: int, settings: GenerationSettings) -> list[str]:
    return [forms.request(length, 1, settings.seed + i).text for i in range(count)]


def _figure(title: str, calls: list[CallTimes], size: str) -> Figure:
    tokens = fmean(call.tokens for call in calls)
    counted = "" if math.isnan(tokens) else f"{tokens:.1f} tokens, "
    return Figure.of(
        f"time to decision or text: {title}",
        [call.total_s * 1e3 for call in calls],
        None,
        "ms",
        f"{counted}{_PROMPT_TOKENS} of prompt, untrained weights, {size}, 1 thread",
    )


def measure_quantized(
    forms: ModelForms, folder: Path, settings: GenerationSettings, kinds: Sequence[str] = KINDS
) -> list[Figure]:
    """Return the ratio of each quantized bundle's time per token to the float bundle's.

    Their tokens may differ: the time of each further token of an answer is compared.

    Args:
        forms: The model.
        folder: An existing folder for the quantized bundles.
        settings: Rounds, tokens and seed.
        kinds: Quantizations.
    """
    prompts = _prompts(forms, _QUANTIZED_PROMPTS, _QUANTIZED_PROMPT_TOKENS, settings)
    bundles = {kind: quantize(forms, kind, folder, prompts) for kind in kinds}
    bundles[_FLOAT] = forms.bundle
    decoders = {name: Decoder.open(path, threads=1) for name, path in bundles.items()}
    turns: dict[str, list[float]] = {name: [] for name in decoders}
    for i in tqdm(range(settings.rounds + 1), desc="rounds", leave=False, disable=None):
        for name, decoder in decoders.items():
            token_ms = _token_ms(decoder, prompts[i % _QUANTIZED_PROMPTS], settings.tokens)
            if i:  # the first round is the warm-up
                turns[name].append(token_ms)
    sizes = {name: _size_mb(path) for name, path in bundles.items()}
    return [_quantized_figure(kind, turns, sizes, forms.size) for kind in kinds]


def _token_ms(decoder: Decoder, prompt: str, tokens: int) -> float:
    (answer,) = decoder.generate([prompt], tokens, -math.inf, stop_when_certain=False)
    return answer.timings.per_token_s * 1e3


def _size_mb(bundle: Path) -> float:
    return sum(file.stat().st_size for file in bundle.glob("model.onnx*")) / 1e6


def _quantized_figure(
    kind: str, turns: dict[str, list[float]], sizes: dict[str, float], model: str
) -> Figure:
    ratios = [ours / whole for ours, whole in zip(turns[kind], turns[_FLOAT], strict=True)]
    detail = (
        f"{median(turns[kind]):.3g} and {median(turns[_FLOAT]):.3g} ms; {sizes[kind]:.1f} and "
        f"{sizes[_FLOAT]:.1f} MB; each further token of an answer, {model}, 1 thread"
    )
    return Figure.of(f"time per token, {kind} / float32", ratios, None, "x", detail)
