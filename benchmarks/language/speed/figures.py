"""Measures the figures of `python -m benchmarks generation`, one group at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Final

from tqdm.auto import tqdm

from benchmarks.commands.language import GENERATION_GROUPS, GenerationGroup, GenerationSettings
from benchmarks.figures import Figure, in_folder, measure_groups
from benchmarks.language.speed import engines
from benchmarks.language.speed.comparison import (
    GENAI,
    GENAI_GATED,
    OPTIMUM,
    OPTIMUM_GATED,
    OPTIMUM_GRAPH,
    Comparison,
    Engines,
    alternate,
    engine_versions,
    running_engines,
)
from benchmarks.language.speed.latency import TITLES, CallTimes, Plan, time_each_kind
from benchmarks.language.speed.models import ModelForms, make_model, quantize
from benchmarks.processes import running_server
from edge_runtime.language import Decoder

_VOCABULARY: Final = 32_000
_SMALL_VOCABULARY: Final = 4_096
_LARGE_VOCABULARY: Final = 256_000
_SHORT, _LONG = 8, 128  # tokens of a prompt
_PER_TOKEN_LIMIT: Final = 0.6
_PREFILL_LIMIT: Final = 0.15
_PLAIN: Final = (OPTIMUM, GENAI)
_PEERS: Final = (*_PLAIN, OPTIMUM_GATED, GENAI_GATED)
_CALLS: Final = 5  # per turn, if a call is short
_ANSWER_TOKENS: Final = 64
_VERDICT_PROMPTS: Final = 10
_VERDICT_PROMPT_TOKENS: Final = 16
_DEADLINE_S: Final = 60.0
_KINDS: Final = ("fp16", "int8-dynamic", "int4")
_FLOAT: Final = "float32"
_QUANTIZED_PROMPTS: Final = 8
_QUANTIZED_PROMPT_TOKENS: Final = 8


def measure(settings: GenerationSettings) -> None:
    """Print the figures of the chosen groups, and write them if a file is named."""
    groups = settings.only or GENERATION_GROUPS
    measure_groups(
        {group: partial(in_folder, _MEASURES[group], settings) for group in groups}, settings.out
    )


def measure_tokens(forms: ModelForms, logs: Path, settings: GenerationSettings) -> list[Figure]:
    """Compare the time per token and the time to the first token with every peer's."""
    prompt = forms.request(_LONG, 1, settings.seed)
    with running_engines(forms, _PEERS, logs) as running:
        tokens = _compare_tokens(running, forms, settings, "time per token")
        first = Comparison(
            "time to first token",
            f"{_LONG} tokens of prompt, {forms.size}, 1 thread",
            alternate(running, prompt, settings.rounds, peers=_PLAIN, calls=_CALLS),
            engine_versions(running),
        )
    return [
        tokens.figure(OPTIMUM, _PER_TOKEN_LIMIT),
        *(tokens.figure(peer) for peer in _PEERS[1:]),
        *(first.figure(peer) for peer in _PLAIN),
    ]


def _measure_overhead(forms: ModelForms, logs: Path, settings: GenerationSettings) -> list[Figure]:
    """Compare the time per token of a model with few weights: the cost of the loops themselves."""
    with running_engines(forms, _PEERS, logs) as running:
        name = f"time per token at vocabulary {forms.vocabulary}"
        tokens = _compare_tokens(running, forms, settings, name)
    return [tokens.figure(peer) for peer in _PEERS]


def _compare_tokens(
    running: Engines, forms: ModelForms, settings: GenerationSettings, name: str
) -> Comparison:
    request = forms.request(_SHORT, settings.tokens, settings.seed)
    return Comparison(
        name,
        f"mean of {settings.tokens} tokens, {forms.size}, 1 thread",
        alternate(running, request, settings.rounds, peers=_PEERS),
        engine_versions(running),
        divisor=settings.tokens,
    )


def measure_prefill(forms: ModelForms, logs: Path, settings: GenerationSettings) -> list[Figure]:
    """Compare the time to read a prompt, for a model that is mostly output layer.

    The peer is optimum's export of the same weights, which computes the logits of every position:
    run by ONNX Runtime alone, and by `generate`.
    """
    prompt = forms.request(_LONG, 1, settings.seed)
    peers = OPTIMUM_GRAPH, OPTIMUM
    with running_engines(forms, peers, logs) as running:
        prefill = Comparison(
            f"prefill of {_LONG} tokens at vocabulary {forms.vocabulary}",
            f"{forms.size}, 1 thread",
            alternate(running, prompt, settings.rounds, peers=peers),
            engine_versions(running),
        )
    return [prefill.figure(OPTIMUM_GRAPH, _PREFILL_LIMIT), prefill.figure(OPTIMUM)]


def measure_verdict(forms: ModelForms, settings: GenerationSettings) -> list[Figure]:
    """Return the times of each kind of call; M_L is the same model, served by `cloud_stub`."""
    prompts = _prompts(forms, _VERDICT_PROMPTS, _VERDICT_PROMPT_TOKENS, settings)
    words = ["cloud_stub", "--checkpoint", str(forms.checkpoint), "--port", "0", "--threads", "1"]
    with running_server([*words, "--max-new-tokens", str(_ANSWER_TOKENS)]) as address:
        plan = Plan(
            bundle=forms.bundle,
            prompts=prompts,
            calls=settings.rounds,
            threads=1,
            cloud=address,
            deadline_s=_DEADLINE_S,
        )
        _, times = time_each_kind(plan)
    return [_verdict_figure(TITLES[kind], calls, forms.size) for kind, calls in times.items()]


def _prompts(forms: ModelForms, count: int, length: int, settings: GenerationSettings) -> list[str]:
    return [forms.request(length, 1, settings.seed + i).text for i in range(count)]


def _verdict_figure(title: str, calls: list[CallTimes], size: str) -> Figure:
    tokens = fmean(call.tokens for call in calls)
    counted = "" if math.isnan(tokens) else f"{tokens:.1f} tokens, "
    return Figure.of(
        f"time to decision or text: {title}",
        [call.total_s * 1e3 for call in calls],
        None,
        "ms",
        f"{counted}{_VERDICT_PROMPT_TOKENS} of prompt, untrained weights, {size}, 1 thread",
    )


def measure_quantized(
    forms: ModelForms, folder: Path, settings: GenerationSettings, kinds: Sequence[str] = _KINDS
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


def _tokens(folder: Path, settings: GenerationSettings) -> list[Figure]:
    return measure_tokens(make_model(folder, _VOCABULARY, settings.seed), folder, settings)


def _overhead(folder: Path, settings: GenerationSettings) -> list[Figure]:
    forms = make_model(folder, _SMALL_VOCABULARY, settings.seed)
    return _measure_overhead(forms, folder, settings)


def _prefill(folder: Path, settings: GenerationSettings) -> list[Figure]:
    forms = make_model(folder, _LARGE_VOCABULARY, settings.seed, peers=(engines.OPTIMUM,))
    return measure_prefill(forms, folder, settings)


def _quantized(folder: Path, settings: GenerationSettings) -> list[Figure]:
    forms = make_model(folder, _VOCABULARY, settings.seed, peers=())
    return measure_quantized(forms, folder, settings)


def _verdict(folder: Path, settings: GenerationSettings) -> list[Figure]:
    tokens = _ANSWER_TOKENS
    forms = make_model(folder, _VOCABULARY, settings.seed, answer_tokens=tokens, peers=())
    return measure_verdict(forms, settings)


_MEASURES: Final[dict[GenerationGroup, Callable[[Path, GenerationSettings], list[Figure]]]] = {
    "tokens": _tokens,
    "overhead": _overhead,
    "prefill": _prefill,
    "quantized": _quantized,
    "verdict": _verdict,
}
