"""The steps of a classifier's export: trace, quantize, gate, fuse, calibrate, verify, write."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from edge_runtime import contract
from edge_runtime.contract import SecondLook
from edge_runtime.environment import toolkit_version
from export import bundle
from export.calibration.threshold import threshold_summary
from export.classifier import verification
from export.classifier.calibration import Band, choose_gate
from export.classifier.gated_graph import GatedGraph
from export.classifier.preprocessing import least_opset
from export.classifier.second_look import set_band
from export.commands.build import BuildSettings
from export.data import TRAINING, load_split
from export.errors import CalibrationError, GraphError
from export.external import inline_weights
from export.graphs import raise_opset
from export.quantization import quantize
from export.sources import Inputs, Source, open_source
from export.sources.probes import pictures_of_shapes
from export.sources.reference import Gate
from export.verification import Answers, quantization_summary, verify_quantized
from train.data import LabelledData

_VERIFIED = 256  # inputs that verify an export; all calibration data choose the threshold
_RANGED = 256  # inputs that fix the ranges of int8
_Record = dict[str, Any]


def build(settings: BuildSettings) -> None:
    """Export a classifier: calibrate and verify it, and only then write the bundle.

    Raises:
        ExportError: The source, its graph or preprocessing, the data or the verification failed;
            nothing was written.
    """
    with open_source(settings) as source:
        build_from(source, settings)


def build_from(source: Source, settings: BuildSettings) -> None:
    """Export an opened source."""
    if source.kind == "text":
        _refuse_settings_of_pictures(settings)
    export = _Export(settings, source, _load(settings, source, settings.split))
    file = source.translate()
    logits = file.model
    if settings.preprocessing == "fused" and source.processor is not None:
        logits = raise_opset(logits, least_opset(source.processor))
    head = source.deferral_head() if settings.confidence == contract.DEFERRAL_HEAD else None
    exact = GatedGraph.of(logits, settings, source, head, file.weights)
    if settings.quantize == "none":
        gate, record = export.choose_gate(exact)
        exact.set_gate(gate)
        export.write(exact, gate, record, export.verify(exact, gate))
        return
    quantized = _quantize(settings, inline_weights(logits, file.weights), source)
    small = GatedGraph.of(quantized, settings, source, head)
    gate, record = export.choose_gate(small)
    small.set_gate(gate)
    export.write(small, gate, record, export.verify_quantized(exact, small, gate))


def _refuse_settings_of_pictures(settings: BuildSettings) -> None:
    if settings.second_look != "none":
        raise GraphError(
            f"expected no --second-look for a text classifier, got {settings.second_look}: it is a "
            "view of pictures"
        )
    if settings.preprocessing == "none":
        raise GraphError(
            "expected --preprocessing fused for a text classifier, got none: its bundle always "
            "holds the tokenizer beside the graph"
        )
    if settings.quantize == "int8":
        raise GraphError(
            "expected --quantize int8-dynamic, int4 or fp16 for a text classifier, got int8: the "
            "ranges of a transformer's activations differ too much from text to text to be fixed"
        )


def _load(settings: BuildSettings, source: Source, split: str) -> LabelledData | None:
    if settings.calibrate is None:
        return None
    return load_split(
        settings.calibrate, split, labels=source.labels, kind=source.kind, owner=source.place
    )


def _quantize(settings: BuildSettings, logits: onnx.ModelProto, source: Source) -> onnx.ModelProto:
    if settings.quantize != "int8":
        return quantize(logits, settings.quantize)
    # Training inputs: those that choose the threshold, and may certify it, stay out of the model.
    train = _load(settings, source, "train")
    assert train is not None  # noqa: S101 - the settings require calibration data
    (pixels,) = source.feeds([train.inputs[i] for i in range(min(len(train), _RANGED))]).values()
    return quantize(logits, settings.quantize, pixels)


@dataclass(frozen=True)
class _Export:
    """The settings of one export with the opened source and the calibration data."""

    settings: BuildSettings
    source: Source
    split: LabelledData | None

    def choose_gate(self, graphs: GatedGraph) -> tuple[Gate, _Record | None]:
        """Return (the gate, the calibration record); None for a threshold set by hand."""
        settings, split = self.settings, self.split
        view = settings.view
        if settings.threshold is not None:
            look, limits = None, (-math.inf, math.inf)
            if view is not None:
                look = SecondLook.from_limits(
                    limits, view=view, band=contract.EVERY_INPUT, share=1.0
                )
            return Gate(settings.confidence, float(np.float32(settings.threshold)), look), None
        assert split is not None  # noqa: S101 - a goal comes with data

        def answer(band: Band | None) -> Answers:
            if band is not None:
                set_band(graphs.shipped, *band)
            return graphs.answers(self.source, split)

        return choose_gate(
            settings,
            settings.confidence,
            split,
            answer,
            extra=self.provenance(graphs),
            look=None if view is None else (view, settings.half_width),
        )

    def verify(self, graphs: GatedGraph, gate: Gate) -> _Record:
        """Compare the float graphs with the original and its processor."""
        source, split = self.source, self.split
        if split is None:
            inputs = source.synthetic(self.settings.seed)
        else:
            raw = [split.inputs[i] for i in range(min(len(split), _VERIFIED))]
            inputs = Inputs(source.feeds(raw), raw, synthetic=False)
        expected = source.reference(inputs, gate)
        verified: _Record = {
            "graph": verification.verify_graph(
                graphs.plain,
                inputs.feeds,
                expected,
                original=source.runs_in,
                weights=graphs.weights,
            )
        }
        if graphs.is_fused:
            verified["preprocessing"] = verification.verify_preprocessing(
                graphs.shipped,
                graphs.plain,
                source.processor,
                inputs,
                expected,
                gate.threshold,
                weights=graphs.weights,
            )
            verified["preprocessing"]["pixel_difference_of_shapes"] = verification.verify_shapes(
                graphs.shipped, source, self._shapes(), weights=graphs.weights
            )
        return verified

    def _shapes(self) -> list[Any]:
        assert self.source.image_size is not None  # noqa: S101 - the processor has one
        return pictures_of_shapes(self.source.processor, self.source.image_size)

    def verify_quantized(self, exact: GatedGraph, small: GatedGraph, gate: Gate) -> _Record:
        """Compare the float graphs with the original, and the quantized one with them.

        Each has its own threshold for the same goal, as each would ship with.
        """
        assert self.split is not None  # noqa: S101 - the settings require calibration data
        try:
            own, _ = self.choose_gate(exact)
        except CalibrationError:  # a guarantee that the float graph just misses
            own = gate
        exact.set_gate(own)
        verified = self.verify(exact, own)
        verified["quantization"] = verify_quantized(
            small.answers(self.source, self.split),
            exact.answers(self.source, self.split),
            self.split.labels,
            max_flips=self.settings.max_flips,
        )
        sizes = {"bytes": small.size_bytes, "bytes_float": exact.size_bytes}
        verified["quantization"] |= {"kind": self.settings.quantize, **sizes}
        return verified

    def write(
        self, graphs: GatedGraph, gate: Gate, record: _Record | None, verified: _Record
    ) -> None:
        """Write the bundle, and print its threshold."""
        settings, tokenizer = self.settings, self.source.tokenizer
        metadata = self.metadata(graphs, gate, record)
        others = graphs.files if tokenizer is None else (*graphs.files, tokenizer)
        bundle.write_bundle(settings.out, graphs.shipped, metadata, verified, others=others)
        summary = threshold_summary(settings, metadata.extra, gate.threshold, record, gate.look)
        print(f"{settings.out}: {summary}", flush=True)
        if settings.quantize != "none":
            print(quantization_summary(verified["quantization"]), flush=True)

    def provenance(self, graphs: GatedGraph) -> _Record:
        """Return the metadata of the inputs that had a part in making the model."""
        extra: _Record = dict(self.source.notes)
        if graphs.head is not None:
            extra[contract.DEFERRAL_HEAD] = graphs.head.record
        if self.source.training is not None:
            extra[TRAINING] = self.source.training.as_record()
        return extra

    def metadata(
        self, graphs: GatedGraph, gate: Gate, record: _Record | None
    ) -> contract.GateMetadata:
        """Return the description of the gate."""
        source = self.source
        extra = self.provenance(graphs)
        if self.settings.quantize != "none":
            extra[contract.QUANTIZATION] = self.settings.quantize
        if source.tokenizer is not None:
            extra[contract.TOKENIZER] = source.tokenizer.name
        return contract.GateMetadata(
            contract_version=contract.CONTRACT_VERSION,
            task=contract.TASKS[source.kind],
            confidence_kind=gate.kind,
            confidence_range=contract.confidence_range(
                gate.kind, len(source.labels), views=2 if gate.look else 1
            ),
            threshold=gate.threshold,
            labels=source.labels,
            input=graphs.input,
            calibration=record,
            second_look=dataclasses.asdict(gate.look) if gate.look else None,
            source_sha256=source.sha256(),
            toolkit_version=toolkit_version(),
            extra=extra,
        )
