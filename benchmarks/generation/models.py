"""Language models with random weights whose answers vary, and what they are asked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from train.models import save_language_model
from train.models.untrained import (
    Architecture,
    Shape,
    trained_tokenizer,
    untrained_language_model,
)

CONTEXT: Final = 512
WINDOW: Final = 12
"""Positions that a layer with a sliding window sees: fewer than most prompts have."""
_WIDTH, _HEADS, _SHARED = 32, 4, 2
_UNSHARED: Final = ("gpt2",)
_VOCABULARY: Final = 320
_MOST_WORDS: Final = 40
_WORDS: Final = (
    *"what how why many is are was of in on to for from the a my each and not but at by with".split(),
    *"balance card flight city shelf book story garden river winter question answer number".split(),
    *"red green blue small large early late 7 12 345 1,000 (sure?) day; night: yes! no.".split(),
    *"naïve übermorgen café Ελλάδα 天気 привет \N{UMBRELLA} \N{GRINNING FACE}".split(),
)
# Matrices, embeddings and norms of random models: with the usual ones a model says one token again
# and again, because what it reads outweighs what its layers make of it.
_MATRIX, _EMBEDDING, _NORM = 0.4, 0.15, 3.0
_END: Final = 1.5
"""How much longer the embedding of the end is, so that some answers end before their limit."""


def random_prompts(count: int, seed: int) -> list[str]:
    """Return texts of 1 to 40 words, in no order of length.

    Args:
        count: How many.
        seed: Which.
    """
    draws = np.random.default_rng(seed)
    return [
        " ".join(draws.choice(_WORDS, draws.integers(1, _MOST_WORDS, endpoint=True)))
        for _ in range(count)
    ]


def write_random_model(architecture: Architecture, folder: Path, seed: int) -> Path:
    """Write a checkpoint of two layers and return its folder.

    Heads share their keys and values where the architecture lets them, and a layer with a sliding
    window sees `WINDOW` positions.

    Args:
        architecture: One of `train.models.untrained.ARCHITECTURES`.
        folder: Where to.
        seed: Of the weights.
    """
    shape = Shape(
        width=_WIDTH,
        layers=2,
        heads=_HEADS,
        kv_heads=_HEADS if architecture in _UNSHARED else _SHARED,
        inner=2 * _WIDTH,
        context=CONTEXT,
    )
    tokenizer = trained_tokenizer(random_prompts(_VOCABULARY, 0), _VOCABULARY)
    made = untrained_language_model(architecture, shape, tokenizer, seed=seed)
    _sharpen(made.model, tokenizer.eos_token_id, seed)
    if getattr(made.model.config, "sliding_window", None) is not None:
        made.model.config.sliding_window = WINDOW  # read when the checkpoint is opened
    save_language_model(made, folder)
    return folder


def _sharpen(model: Any, end: int, seed: int) -> None:
    """Make what a model says depend on all that it reads."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.ndim > 1:
                values.normal_(0.0, _MATRIX, generator=draws)
            elif name.endswith("weight"):
                values.add_(_NORM * torch.rand(values.shape, generator=draws))
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):  # gpt2's positions as well
                module.weight.mul_(_EMBEDDING / _MATRIX)
        model.get_input_embeddings().weight[end] *= _END


def variety(answers: list[tuple[int, ...]]) -> str:
    """Return in words how much answers differ: a model that repeats itself proves little.

    Args:
        answers: Tokens of each.
    """
    tokens = {token for answer in answers for token in answer}
    shares = [len(set(answer)) / len(answer) for answer in answers if answer]
    share = math.fsum(shares) / len(shares) if shares else math.nan
    return (
        f"{len(set(answers)):,} different answers of {len(tokens)} different tokens, of an "
        f"answer's own tokens {share:.0%} are different"
    )
