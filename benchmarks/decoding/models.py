"""Language models with random weights whose answers vary."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.decoding.prompts import random_prompts
from train.models import save_language_model
from train.models.untrained import (
    WINDOWED,
    Architecture,
    Shape,
    trained_tokenizer,
    untrained_language_model,
)

CONTEXT: Final = 2048
WINDOW: Final = 12
"""Positions that a layer with a sliding window sees: fewer than most prompts have."""
_WIDTH, _HEADS, _SHARED = 32, 4, 2
_UNSHARED: Final = ("gpt2",)
_VOCABULARY: Final = 320
# Matrices, embeddings and gains of norms. With the usual ones a model says one token again and
# again, because what it reads outweighs what its layers make of it; with greater ones float32
# itself moves the sum of an answer's log-probabilities by more than 1e-4.
_MATRIX, _EMBEDDING, _NORM = 0.25, 0.15, 2.0
_END: Final = 1.6
"""How much longer the embedding of the end is, so that some answers end before their limit."""


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
        window=WINDOW if architecture in WINDOWED else None,
    )
    tokenizer = trained_tokenizer(random_prompts(_VOCABULARY, 0), _VOCABULARY)
    made = untrained_language_model(architecture, shape, tokenizer, seed=seed)
    _sharpen(made.model, tokenizer.eos_token_id, seed)
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
