"""A gated graph, without and with preprocessing, and what it says of data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from edge_runtime import contract
from export.commands.build import BuildSettings, input_of_pixels
from export.gate import append_gate, set_threshold
from export.made_up import image_size
from export.preprocessing import fuse_preprocessing
from export.reference import Gate
from export.second_look import set_band
from export.session import open_graph, run_images
from train.data import LabelledData
from train.models import Checkpoint, DeferralHead


@dataclass(frozen=True)
class Gated:
    """The graphs, and the deferral head in them.

    Attributes:
        plain: Takes `pixel_values`.
        shipped: Takes what the bundle says; the same graph where nothing is fused.
        input: What that is.
        head: The deferral head, or None.
    """

    plain: onnx.ModelProto
    shipped: onnx.ModelProto
    input: contract.InputDescription
    head: DeferralHead | None

    @classmethod
    def of(
        cls,
        logits: onnx.ModelProto,
        settings: BuildSettings,
        checkpoint: Checkpoint,
        head: DeferralHead | None,
    ) -> Gated:
        """Gate a copy of a graph pixel_values -> logits, and fuse the preprocessing."""
        plain = _copy(logits)
        append_gate(
            plain,
            kind=settings.confidence,
            threshold=0.0,
            emit=settings.emit,
            view=settings.view,
            head=head,
        )
        size = image_size(checkpoint)
        if settings.preprocessing == "none":
            return cls(plain, plain, input_of_pixels(*size), head)
        shipped = _copy(plain)
        described = fuse_preprocessing(shipped, checkpoint.processor, size)
        onnx.checker.check_model(shipped)
        return cls(plain, shipped, described, head)

    def set_gate(self, gate: Gate) -> None:
        """Write threshold and band into both graphs."""
        for graph in (self.plain, self.shipped):
            set_threshold(graph, gate.threshold)
            if gate.look is not None:
                set_band(graph, *gate.look.limits)

    def answers(
        self, checkpoint: Checkpoint, data: LabelledData
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return prediction, confidence and defer [n] of the graph that ships."""
        session = open_graph(self.shipped)
        if session.get_inputs()[0].name == contract.IMAGE:
            return run_images(session, data.inputs)
        pixels = checkpoint.pixel_values([data.inputs[i] for i in range(len(data))]).numpy()
        prediction, confidence, defer = session.run(
            contract.GATE_OUTPUTS, {session.get_inputs()[0].name: pixels}
        )
        return prediction, confidence, defer


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
