"""A gated graph, without and with preprocessing, and what it says of data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from edge_runtime import contract
from export.classifier.gate import append_gate, set_threshold
from export.classifier.preprocessing import fuse_preprocessing
from export.classifier.second_look import set_band
from export.commands.build import BuildSettings
from export.external import WEIGHTS_FILE
from export.graphs import check_graph, copy_of
from export.session import Answers, open_graph, run_images, run_on
from export.sources import Source
from export.sources.reference import Gate
from train.data import LabelledData
from train.models import DeferralHead


@dataclass(frozen=True)
class Gated:
    """The graphs, and the deferral head in them.

    Attributes:
        plain: Takes what the model itself does, e.g. `pixel_values`.
        shipped: Takes what the bundle says; the same graph where nothing is fused.
        input: What that is.
        head: The deferral head, or None.
        weights: The folder of external weights, or None where the graphs hold all of them.
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
    ) -> Gated:
        """Gate a copy of a graph of logits, and fuse the preprocessing."""
        plain = copy_of(logits)
        append_gate(
            plain,
            kind=settings.confidence,
            threshold=0.0,
            emit=settings.emit,
            view=settings.view,
            head=head,
        )
        if settings.preprocessing == "none" or source.processor is None:
            return cls(plain, plain, source.input, head, weights)
        shipped = copy_of(plain)
        described = fuse_preprocessing(shipped, source.processor, source.image_size)
        check_graph(shipped)
        return cls(plain, shipped, described, head, weights)

    @property
    def is_fused(self) -> bool:
        """Whether the graph that ships takes pictures."""
        return self.shipped is not self.plain

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of external weights."""
        return () if self.weights is None else (self.weights / WEIGHTS_FILE,)

    @property
    def size_bytes(self) -> int:
        """How large the graph that ships is with its weights."""
        return self.shipped.ByteSize() + sum(file.stat().st_size for file in self.files)

    def set_gate(self, gate: Gate) -> None:
        """Write threshold and band into both graphs."""
        for graph in (self.plain, self.shipped):
            set_threshold(graph, gate.threshold)
            if gate.look is not None:
                set_band(graph, *gate.look.limits)

    def answers(self, source: Source, data: LabelledData) -> Answers:
        """Return prediction, confidence and defer [n] of the graph that ships."""
        session = open_graph(self.shipped, self.weights)
        if self.is_fused:
            return run_images(session, data.inputs)
        return run_on(session, data.inputs, source.feeds)
