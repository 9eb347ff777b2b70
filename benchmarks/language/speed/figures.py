"""Measures the figures of `generation`, a group at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.commands.language import GENERATION_GROUPS, GenerationGroup, GenerationSettings
from benchmarks.figures import Figure, in_folder, measure_groups
from benchmarks.language.speed import models
from benchmarks.language.speed.comparison import (
    GENAI,
    GENAI_GATED,
    OPTIMUM,
    OPTIMUM_GATED,
    OPTIMUM_GRAPH,
    Compared,
    Field,
    alternate,
    field_of,
    versions,
)
from benchmarks.language.speed.models import Made, make
from benchmarks.language.speed.verdict import ANSWER_TOKENS, quantized_figures, verdict_figures

_VOCABULARY: Final = 32_000
_SMALL_VOCABULARY: Final = 4_096
_LARGE_VOCABULARY: Final = 256_000
_SHORT, _LONG = 8, 128  # tokens of a prompt
_PER_TOKEN_LIMIT: Final = 0.6
_PREFILL_LIMIT: Final = 0.15
_PLAIN: Final = (OPTIMUM, GENAI)
_PEERS: Final = (*_PLAIN, OPTIMUM_GATED, GENAI_GATED)
_CALLS: Final = 5  # of a turn, where one is short


def measure(settings: GenerationSettings) -> None:
    """Print every figure, and write them where asked."""
    groups = settings.only or GENERATION_GROUPS
    measure_groups(
        {group: partial(in_folder, _MEASURES[group], settings) for group in groups}, settings.out
    )


def token_figures(made: Made, logs: Path, settings: GenerationSettings) -> list[Figure]:
    """Return time per token and time to first token beside every peer."""
    prompt = made.request(_LONG, 1, settings.seed)
    with field_of(made, _PEERS, logs) as field:
        tokens = _tokens_of(field, made, settings, "time per token")
        first = Compared(
            "time to first token",
            f"{_LONG} tokens of prompt, {made.size}, 1 thread",
            alternate(field, prompt, settings.rounds, peers=_PLAIN, calls=_CALLS),
            versions(field),
        )
    return [
        tokens.figure(OPTIMUM, _PER_TOKEN_LIMIT),
        *(tokens.figure(peer) for peer in _PEERS[1:]),
        *(first.figure(peer) for peer in _PLAIN),
    ]


def overhead_figures(made: Made, logs: Path, settings: GenerationSettings) -> list[Figure]:
    """Return time per token where little is read: what the ways to generate cost by themselves."""
    with field_of(made, _PEERS, logs) as field:
        name = f"time per token at vocabulary {made.vocabulary}"
        tokens = _tokens_of(field, made, settings, name)
    return [tokens.figure(peer) for peer in _PEERS]


def _tokens_of(field: Field, made: Made, settings: GenerationSettings, name: str) -> Compared:
    answer = made.request(_SHORT, settings.tokens, settings.seed)
    return Compared(
        name,
        f"mean of {settings.tokens} tokens, {made.size}, 1 thread",
        alternate(field, answer, settings.rounds, peers=_PEERS),
        versions(field),
        share=settings.tokens,
    )


def prefill_figures(made: Made, logs: Path, settings: GenerationSettings) -> list[Figure]:
    """Return what a prompt takes where the output layer is most of the model.

    Beside ours is optimum's export of the same weights, which computes logits of every position:
    run by ONNX Runtime alone, and by `generate`.
    """
    prompt = made.request(_LONG, 1, settings.seed)
    peers = OPTIMUM_GRAPH, OPTIMUM
    with field_of(made, peers, logs) as field:
        prefill = Compared(
            f"prefill of {_LONG} tokens at vocabulary {made.vocabulary}",
            f"{made.size}, 1 thread",
            alternate(field, prompt, settings.rounds, peers=peers),
            versions(field),
        )
    return [prefill.figure(OPTIMUM_GRAPH, _PREFILL_LIMIT), prefill.figure(OPTIMUM)]


def _tokens(folder: Path, settings: GenerationSettings) -> list[Figure]:
    return token_figures(make(folder, _VOCABULARY, settings.seed), folder, settings)


def _overhead(folder: Path, settings: GenerationSettings) -> list[Figure]:
    return overhead_figures(make(folder, _SMALL_VOCABULARY, settings.seed), folder, settings)


def _prefill(folder: Path, settings: GenerationSettings) -> list[Figure]:
    made = make(folder, _LARGE_VOCABULARY, settings.seed, peers=(models.OPTIMUM,))
    return prefill_figures(made, folder, settings)


def _verdict(folder: Path, settings: GenerationSettings) -> list[Figure]:
    made = make(folder, _VOCABULARY, settings.seed, answer_tokens=ANSWER_TOKENS, peers=())
    return verdict_figures(made, settings)


def _quantized(folder: Path, settings: GenerationSettings) -> list[Figure]:
    made = make(folder, _VOCABULARY, settings.seed, peers=())
    return quantized_figures(made, folder, settings)


_MEASURES: Final[dict[GenerationGroup, Callable[[Path, GenerationSettings], list[Figure]]]] = {
    "tokens": _tokens,
    "overhead": _overhead,
    "prefill": _prefill,
    "quantized": _quantized,
    "verdict": _verdict,
}
