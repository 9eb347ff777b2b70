"""The steps of an export: trace, quantize, gate, fuse, calibrate, verify, write."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import onnx

from edge_runtime import contract
from edge_runtime.contract import SecondLook
from export import bundle, calibration
from export.classifier import verification
from export.classifier.gated_graph import Gated
from export.classifier.second_look import set_band
from export.commands.build import BuildSettings
from export.data import load_split
from export.errors import CalibrationError
from export.external import inlined
from export.freshness import TRAINING, remarks, require_fresh, was_chosen_on
from export.quantization import quantize
from export.sources import Inputs, Source, open_source
from export.sources.reference import Gate
from train.data import LabelledData

_VERIFIED = 256  # inputs that verify an export; all calibration data choose the threshold
_RANGED = 256  # inputs that fix the ranges of int8
_Record = dict[str, Any]


def build_bundle(settings: BuildSettings) -> None:
    """Export a model; see `BuildSettings`.

    Raises:
        ExportError: The source, its graph or preprocessing, the data or the verification failed;
            nothing was written.
    """
    with open_source(settings) as source:
        _build(settings, source)


def _build(settings: BuildSettings, source: Source) -> None:
    split = _split(settings, source, settings.split)
    logits = source.graph()
    head = source.deferral_head() if settings.confidence == contract.DEFERRAL_HEAD else None
    exact = Gated.of(logits, settings, source, head, source.weights)
    if settings.quantize == "none":
        gate, record = _choose_gate(settings, exact, source, split)
        exact.set_gate(gate)
        verified = _verify(settings, exact, source, split, gate)
        _write(settings, source, exact, gate, record, verified)
        return
    small = Gated.of(_quantized(settings, logits, source), settings, source, head)
    gate, record = _choose_gate(settings, small, source, split)
    small.set_gate(gate)
    verified = _verify_quantized(settings, exact, small, source, split, gate)
    _write(settings, source, small, gate, record, verified)


def _split(settings: BuildSettings, source: Source, name: str) -> LabelledData | None:
    if settings.calibrate is None:
        return None
    return load_split(
        settings.calibrate, name, labels=source.labels, kind=source.kind, owner=source.place
    )


def _quantized(settings: BuildSettings, logits: onnx.ModelProto, source: Source) -> onnx.ModelProto:
    whole = inlined(logits, source.weights)
    if settings.quantize != "int8":
        return quantize(whole, settings.quantize)
    # Training inputs: those that choose the threshold, and may certify it, stay out of the model.
    train = _split(settings, source, "train")
    assert train is not None  # noqa: S101 - checked on creation
    (pixels,) = source.feeds([train.inputs[i] for i in range(min(len(train), _RANGED))]).values()
    return quantize(whole, settings.quantize, pixels)


def _choose_gate(
    settings: BuildSettings, graphs: Gated, source: Source, split: LabelledData | None
) -> tuple[Gate, _Record | None]:
    kind, view = settings.confidence, settings.view
    if settings.threshold is not None:
        threshold = float(np.float32(settings.threshold))
        return Gate(kind, threshold, None if view is None else _of_every_input(view)), None
    assert split is not None  # noqa: S101 - a goal comes with data
    goal, data = settings.goal(), str(settings.calibrate)
    made_with = _made_with(source, graphs)
    if goal.is_certified:
        require_fresh(made_with, data, settings.split)
    sample, look = _measure(settings, graphs, source, split, goal)
    threshold, record = calibration.calibrate(goal, sample, data=data, split=settings.split)
    if goal.is_certified and was_chosen_on(made_with, data, settings.split):
        record[calibration.REUSED] = True
    return Gate(kind, threshold, look), record


def _of_every_input(view: str) -> SecondLook:
    return SecondLook.from_limits(
        (-math.inf, math.inf), view=view, band=contract.EVERY_INPUT, share=1.0
    )


def _measure(
    settings: BuildSettings,
    graphs: Gated,
    source: Source,
    split: LabelledData,
    goal: calibration.Goal,
) -> tuple[calibration.Sample, SecondLook | None]:
    """Return what the threshold is chosen on, and the second look behind it."""
    large_right = settings.large_right(split)

    def sample() -> calibration.Sample:
        prediction, confidence, _ = graphs.answers(source, split)
        return calibration.Sample(confidence, prediction == split.labels, large_right)

    if settings.view is None:
        return sample(), None

    def measure(low: float, high: float) -> calibration.Sample:
        set_band(graphs.shipped, low, high)
        return sample()

    return calibration.calibrate_look(
        measure, view=settings.view, goal=goal, band=settings.half_width
    )


def _verify(
    settings: BuildSettings,
    graphs: Gated,
    source: Source,
    split: LabelledData | None,
    gate: Gate,
) -> _Record:
    """Hold the float graphs to the original, and to its processor."""
    inputs = source.made_up(settings.seed) if split is None else _some(source, split)
    expected = source.ask(inputs, gate)
    result = {
        "graph": verification.verify_graph(
            graphs.plain,
            inputs.feeds,
            expected,
            original=source.runs_in,
            weights=graphs.weights,
        )
    }
    if graphs.is_fused:
        assert inputs.given is not None  # noqa: S101 - what is fused is the processor that made them
        result["preprocessing"] = verification.verify_preprocessing(
            graphs.shipped,
            graphs.plain,
            source.processor,
            inputs.given,
            inputs.pixels,
            expected,
            made_up=inputs.made_up,
            weights=graphs.weights,
        )
    return result


def _some(source: Source, split: LabelledData) -> Inputs:
    images = [split.inputs[i] for i in range(min(len(split), _VERIFIED))]
    return Inputs(source.feeds(images), images, made_up=False)


def _verify_quantized(
    settings: BuildSettings,
    exact: Gated,
    small: Gated,
    source: Source,
    split: LabelledData | None,
    gate: Gate,
) -> _Record:
    """Hold the float graphs to the original, and the quantized one to them.

    Each has its own threshold for the same goal, because that is what either would ship with.
    """
    assert split is not None  # noqa: S101 - checked on creation
    try:
        own, _ = _choose_gate(settings, exact, source, split)
    except CalibrationError:  # a guarantee that the float graph just misses
        own = gate
    exact.set_gate(own)
    verified = _verify(settings, exact, source, split, own)
    verified["quantization"] = verification.verify_quantized(
        small.answers(source, split),
        exact.answers(source, split),
        split.labels,
        max_flips=settings.max_flips,
    )
    sizes = {"bytes": small.size_bytes, "bytes_float": exact.size_bytes}
    verified["quantization"] |= {"kind": settings.quantize, **sizes}
    return verified


def _write(
    settings: BuildSettings,
    source: Source,
    graphs: Gated,
    gate: Gate,
    record: _Record | None,
    verified: _Record,
) -> None:
    metadata = _metadata(settings, source, graphs, gate, record)
    others = graphs.files if source.tokenizer is None else (*graphs.files, source.tokenizer)
    bundle.write_bundle(settings.out, graphs.shipped, metadata, verified, others=others)
    achieved = f", defers {record['achieved']:.1%} of {record['n']}" if record else ""
    looked = calibration.band_note(gate.threshold, gate.look)
    seen = remarks(
        metadata.extra, settings.calibrate, settings.split, certified=settings.is_certified
    )
    print(f"{settings.out}: threshold {gate.threshold:.6g}{achieved}{looked}{seen}", flush=True)
    if settings.quantize != "none":
        print(verification.quantized_in_words(verified["quantization"]), flush=True)


def _made_with(source: Source, graphs: Gated) -> _Record:
    """Return what the metadata say of the inputs that had a part in making the model."""
    made_with: _Record = {}
    if graphs.head is not None:
        made_with[contract.DEFERRAL_HEAD] = graphs.head.record
    if source.training is not None:
        made_with[TRAINING] = source.training.as_record()
    return made_with


def _metadata(
    settings: BuildSettings,
    source: Source,
    graphs: Gated,
    gate: Gate,
    record: _Record | None,
) -> contract.GateMetadata:
    extra = _made_with(source, graphs)
    if settings.quantize != "none":
        extra[contract.QUANTIZATION] = settings.quantize
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
        toolkit_version=bundle.toolkit_version(),
        extra=extra,
    )
