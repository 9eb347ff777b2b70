"""Bundles of random language models, each exported once and only where it is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.decoding.exports import export_all
from benchmarks.decoding.models import write_random_model
from edge_runtime.metrics import SEQUENCE_KINDS
from export.commands.language import LanguageSettings
from train.models.untrained import ARCHITECTURES, Architecture

MOST_TOKENS: Final = 32
Case = tuple[Architecture, str]
"""An architecture and a confidence."""


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
