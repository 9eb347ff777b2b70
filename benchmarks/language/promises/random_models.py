"""Bundles of random language models, each exported once and only where it is wanted."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.language.promises.prompts import random_prompts

# MERGEDOC benchmarks/decoding/models.py: 'Language models with random weights whose answers vary.'
# MERGEDOC benchmarks/decoding/exports.py: 'Exports of many language models, a few at a time.'
from edge_runtime.metrics import SEQUENCE_KINDS
from export.commands.language import LanguageSettings
from train.models import save_language_model
from train.models.untrained import (
    ARCHITECTURES,
    WINDOWED,
    Architecture,
    Shape,
    trained_tokenizer,
    untrained_language_model,
)

MOST_TOKENS: Final = 32
Case = tuple[Architecture, str]
"""An architecture and a confidence."""

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


@dataclass(frozen=True)
class RandomModels:
    """Random models of every architecture, and their bundles of every confidence.

    Attributes:
        folder: Where they are written.
        seed: Of the weights.
        architectures: Which.
        kinds: Which confidences.
    """

    folder: Path
    seed: int
    architectures: tuple[Architecture, ...] = ARCHITECTURES
    kinds: tuple[str, ...] = SEQUENCE_KINDS
    _written: dict[Architecture, Path] = field(default_factory=dict, init=False)

    def checkpoint(self, architecture: Architecture) -> Path:
        """Return the folder of a model."""
        if architecture not in self._written:
            folder = self.folder / architecture
            self._written[architecture] = write_random_model(architecture, folder, self.seed)
        return self._written[architecture]

    def bundles(self, cases: Iterable[Case] | None = None) -> dict[Case, Path]:
        """Return bundles by architecture and confidence.

        Args:
            cases: Which; all when None.

        Raises:
            ExportError: One cannot be exported.
        """
        every = [(one, kind) for one in self.architectures for kind in self.kinds]
        places = {
            (architecture, kind): self.folder / f"{architecture}-{kind}"
            for architecture, kind in (every if cases is None else cases)
        }
        export_all(
            [
                LanguageSettings(
                    checkpoint=self.checkpoint(architecture),
                    confidence=kind,  # type: ignore[arg-type]  # one of them
                    threshold=0.0,
                    max_new_tokens=MOST_TOKENS,
                    out=place,
                )
                for (architecture, kind), place in places.items()
                if not place.exists()
            ]
        )
        return places


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


def export_all(jobs: Sequence[LanguageSettings]) -> None:
    """Run exports in as many processes as there are cores; most of one is tracing, in one thread.

    Raises:
        ExportError: One was refused.
    """
    if len(jobs) == 1:
        _export(jobs[0])
    if len(jobs) <= 1:
        return
    # A fork of a process with threads may wait for a lock that nobody holds any more.
    context = multiprocessing.get_context("spawn")
    workers = min(len(jobs), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_alone) as pool:
        for _ in pool.map(_export, jobs):
            pass


def _alone() -> None:
    import torch

    torch.set_num_threads(1)  # the others have the other cores


def _export(job: LanguageSettings) -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # a line of a folder that will be gone
        job.run()
