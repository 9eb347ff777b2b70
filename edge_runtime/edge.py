"""What a cascade wants of the small model on the device, whatever kind it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.bundle import Bundle, role_of
from edge_runtime.edge_model import EdgeModel, Gated
from edge_runtime.inputs import Intake


class Edge(Protocol):
    """M_S with its gate: `EdgeModel` classifies, `EdgeGenerator` answers prompts."""

    bundle: Bundle
    metadata: contract.GateMetadata
    labels: tuple[str, ...]
    threshold: float
    intake: Intake

    def run(self, rows: npt.NDArray[Any], feeds: Mapping[str, npt.NDArray[Any]]) -> Gated:
        """Answer a batch that the intake has made feeds of."""

    def stream(self, prompt: str) -> Iterator[str | Gated]:
        """Yield the answer to a prompt piece by piece, and at last what the gate says of it.

        Raises:
            UseError: It gives no text.
        """

    def finished(self, gated: Gated, rows: npt.NDArray[Any]) -> Gated:
        """Return what a batch says where M_S has to answer it after all; see `Gated.unfinished`."""

    def warm_up(self) -> None:
        """Answer something, so that the first real input does not wait."""


def open_edge(path: Path | str, *, threshold: float | None = None, **session: Any) -> Edge:
    """Open the small model of a bundle, of whatever kind it is.

    Args:
        path: The bundle's folder.
        threshold: Overrides the baked one.
        **session: `SessionSettings`.

    Raises:
        BundleError: The bundle is missing, damaged, or of an unknown kind or contract version.
        SettingError: A setting is out of range.
    """
    if role_of(path) == contract.ROLE_DECODER:
        from edge_runtime.language.edge_generator import EdgeGenerator

        return EdgeGenerator.open(path, threshold=threshold, **session)
    return EdgeModel.open(path, threshold=threshold, **session)
