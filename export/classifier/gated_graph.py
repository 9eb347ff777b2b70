"""A gated graph with and without preprocessing, and its answers to data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from edge_runtime import contract
from export.classifier.gate import append_gate
from export.classifier.preprocessing import fuse_preprocessing
from export.classifier.second_look import set_band
from export.commands.build import BuildSettings
from export.external import WEIGHTS_FILE
from export.gate import set_threshold
from export.graphs import check_graph, copy_model
from export.session import open_graph, run_images, run_on
from export.sources import Source
from export.sources.reference import Gate
from export.verification import Answers
from train.data import LabelledData
from train.models import DeferralHead


@dataclass(frozen=True)
class GatedGraph:
    """The graph of a bundle, and the deferral head in it.

    Attributes:
        plain: The graph with the model's own input, e.g. `pixel_values`.
        shipped: The graph of the bundle; the same one if nothing is fused.
        input: The input of the bundle.
        head: The deferral head, or None.
        weights: The folder of external weights, or None if the graphs hold all of them.
    """

    plain: onnx.ModelProto
    shipped: onnx.ModelProto
    input: contract.InputDescription
    head: DeferralHead | None
    weights: Path | None

    @classmethod
    def of(
        cls,
        logits: onnx.ModelProto,
        settings: BuildSettings,
        source: Source,
        head: DeferralHead | None,
        weights: Path | None = None,
    ) -> GatedGraph:
        """Gate a copy of a graph of logits, and fuse the preprocessing."""
        plain = copy_model(logits)
        append_gate(
            plain,
            kind=settings.confidence,
            threshold=0.0,
            emit=settings.emit,
            view=settings.view,
            head=head,
        )
        size = source.image_size
        if settings.preprocessing == "none" or size is None:
            return cls(plain, plain, source.input, head, weights)
        shipped = copy_model(plain)
        described = fuse_preprocessing(shipped, source.processor, size)
        check_graph(shipped)
        return cls(plain, shipped, described, head, weights)

    @property
    def is_fused(self) -> bool:
        """True if the graph of the bundle takes pictures."""
        return self.shipped is not self.plain

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of external weights."""
        return () if self.weights is None else (self.weights / WEIGHTS_FILE,)

    @property
    def size_bytes(self) -> int:
        """Size of the graph of the bundle with its weights."""
        return self.shipped.ByteSize() + sum(file.stat().st_size for file in self.files)

    def set_gate(self, gate: Gate) -> None:
        """Write threshold and band into both graphs."""
        for graph in (self.plain, self.shipped):
            set_threshold(graph, gate.threshold)
            if gate.look is not None:
                set_band(graph, *gate.look.limits)

    def answers(self, source: Source, data: LabelledData) -> Answers:
        """Return prediction, confidence and defer [n] of the graph of the bundle."""
        session = open_graph(self.shipped, self.weights)
        if self.is_fused:
            return run_images(session, data.inputs)
        return run_on(session, data.inputs, source.feeds)
