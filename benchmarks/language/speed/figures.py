"""Measures the figures of `python -m benchmarks generation`, one group at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

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
from benchmarks.language.speed.models import ModelForms, make_model
from benchmarks.language.speed.verdict import ANSWER_TOKENS, measure_quantized, measure_verdict

_VOCABULARY: Final = 32_000
_SMALL_VOCABULARY: Final = 4_096
_LARGE_VOCABULARY: Final = 256_000
_SHORT, _LONG = 8, 128  # tokens of a prompt
_PER_TOKEN_LIMIT: Final = 0.6
_PREFILL_LIMIT: Final = 0.15
_PLAIN: Final = (OPTIMUM, GENAI)
_PEERS: Final = (*_PLAIN, OPTIMUM_GATED, GENAI_GATED)
_CALLS: Final = 5  # per turn, if a call is short


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


def _tokens(folder: Path, settings: GenerationSettings) -> list[Figure]:
    return measure_tokens(make_model(folder, _VOCABULARY, settings.seed), folder, settings)


def _overhead(folder: Path, settings: GenerationSettings) -> list[Figure]:
    return _measure_overhead(make_model(folder, _SMALL_VOCABULARY, settings.seed), folder, settings)


def _prefill(folder: Path, settings: GenerationSettings) -> list[Figure]:
    forms = make_model(folder, _LARGE_VOCABULARY, settings.seed, peers=(engines.OPTIMUM,))
    return measure_prefill(forms, folder, settings)


def _verdict(folder: Path, settings: GenerationSettings) -> list[Figure]:
    forms = make_model(folder, _VOCABULARY, settings.seed, answer_tokens=ANSWER_TOKENS, peers=())
    return measure_verdict(forms, settings)


def _quantized(folder: Path, settings: GenerationSettings) -> list[Figure]:
    forms = make_model(folder, _VOCABULARY, settings.seed, peers=())
    return measure_quantized(forms, folder, settings)


_MEASURES: Final[dict[GenerationGroup, Callable[[Path, GenerationSettings], list[Figure]]]] = {
    "tokens": _tokens,
    "overhead": _overhead,
    "prefill": _prefill,
    "quantized": _quantized,
    "verdict": _verdict,
}
