"""Language models with random weights whose answers vary, and their bundles, each exported once."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.language.promises.prompts import random_prompts
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

TOKEN_LIMIT: Final = 32
CONTEXT: Final = 2048
WINDOW: Final = 12
"""Positions that a layer with a sliding window sees: fewer than most prompts have."""
Case = tuple[Architecture, str]
"""An architecture and a confidence."""
_WIDTH, _HEADS, _KV_HEADS = 32, 4, 2
_UNSHARED: Final = ("gpt2",)
_VOCABULARY: Final = 320
# Spread of matrices, of embeddings and of the norms' gains. With the usual values a model repeats
# one token, because its input outweighs the output of its layers; with larger ones float32 itself
# moves the sum of an answer's log-probabilities by more than 1e-4.
_MATRIX, _EMBEDDING, _NORM = 0.25, 0.15, 2.0
_END_FACTOR: Final = 1.6  # lengthens the embedding of the end, so that some answers end early


@dataclass(frozen=True)
class RandomModels:
    """Random models of several architectures, and their bundles with several confidences.

    Attributes:
        folder: Folder for models and bundles.
        seed: Seed of the weights.
        architectures: Their architectures.
        kinds: Their confidences.
    """

    folder: Path
    seed: int
    architectures: tuple[Architecture, ...] = ARCHITECTURES
    kinds: tuple[str, ...] = SEQUENCE_KINDS
    _written: dict[Architecture, Path] = field(default_factory=dict, init=False)

    def checkpoint(self, architecture: Architecture) -> Path:
        """Return the folder of a model, which is written on first use."""
        if architecture not in self._written:
            folder = self.folder / architecture
            self._written[architecture] = write_random_model(architecture, folder, self.seed)
        return self._written[architecture]

    def bundles(self, cases: Iterable[Case] | None = None) -> dict[Case, Path]:
        """Return bundles by architecture and confidence; missing ones are exported.

        Args:
            cases: Architectures and confidences; every combination when None.

        Raises:
            ExportError: One cannot be exported.
        """
        places = {
            (architecture, kind): self.folder / f"{architecture}-{kind}"
            for architecture, kind in cases or product(self.architectures, self.kinds)
        }
        export_all(
            [
                LanguageSettings(
                    checkpoint=self.checkpoint(architecture),
                    confidence=kind,  # type: ignore[arg-type]  # a text that is one of the literals
                    threshold=0.0,
                    max_new_tokens=TOKEN_LIMIT,
                    out=place,
                )
                for (architecture, kind), place in places.items()
                if not place.exists()
            ]
        )
        return places


def write_random_model(architecture: Architecture, folder: Path, seed: int) -> Path:
    """Write a checkpoint of two layers and return its folder.

    Heads share keys and values if the architecture allows it, and a layer with a sliding window
    sees `WINDOW` positions.

    Args:
        architecture: One of `train.models.untrained.ARCHITECTURES`.
        folder: Folder to write.
        seed: Seed of the weights.
    """
    shape = Shape(
        width=_WIDTH,
        layers=2,
        heads=_HEADS,
        kv_heads=_HEADS if architecture in _UNSHARED else _KV_HEADS,
        inner=2 * _WIDTH,
        context=CONTEXT,
        window=WINDOW if architecture in WINDOWED else None,
    )
    tokenizer = trained_tokenizer(random_prompts(_VOCABULARY, 0), _VOCABULARY)
    model = untrained_language_model(architecture, shape, tokenizer, seed=seed)
    _sharpen(model.model, tokenizer.eos_token_id, seed)
    save_language_model(model, folder)
    return folder


def _sharpen(model: Any, end: int, seed: int) -> None:
    """Make a model's answers depend on everything that it reads."""
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
        model.get_input_embeddings().weight[end] *= _END_FACTOR


def export_all(jobs: Sequence[LanguageSettings]) -> None:
    """Run exports in as many processes as there are cores; tracing, most of one, has one thread.

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
    with ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=torch.set_num_threads,
        initargs=(1,),  # the other workers use the other cores
    ) as pool:
        for _ in pool.map(_export, jobs):
            pass


def _export(job: LanguageSettings) -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # names a folder that will be gone
        job.run()
