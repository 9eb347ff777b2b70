"""Verifies a classifier's export by its decisions, before it is written and afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edge_runtime import contract
from edge_runtime.contract import SecondLook
from edge_runtime.edge_model import EdgeModel
from edge_runtime.errors import SettingError
from export.classifier.processor import steps_of
from export.commands.verify import VerifySettings
from export.data import kind_of, load_split, require_labels
from export.errors import VerificationError
from export.graphs import copy_model
from export.session import open_graph, run_bundle, run_feeds, run_images
from export.sources.reference import Gate, Reference, checkpoint_reference
from export.sources.source import Feeds, Inputs, Source
from export.verification import MAX_FLIPPED, Answers, at_threshold, least_sure
from train.data import LabelledData
from train.models import open_checkpoint

MAX_FLIPPED_QUANTIZED = 0.01
MAX_STEPS = 2.01
"""Largest error of a synthetic picture's pixels after fused preprocessing, in 8-bit steps: two,
and what float32 rounds."""


def verify_graph(
    gated: onnx.ModelProto,
    feeds: Feeds,
    expected: Reference,
    *,
    original: str = "PyTorch",
    weights: Path | None = None,
) -> dict[str, Any]:
    """Compare the gated graph without preprocessing with the original on the same inputs.

    Args:
        gated: The graph.
        feeds: Inputs as the graph takes them, e.g. from the checkpoint's processor.
        expected: The original's answers.
        original: Name of the original, for the message.
        weights: The folder of the graph's external weights, or None.

    Raises:
        VerificationError: A prediction or decision differs without being a tie (within 1e-5).
    """
    prediction, confidence, defer = run_feeds(open_graph(gated, weights), feeds)
    wrong = (prediction != expected.prediction) & ~expected.tied
    flipped = (defer != expected.defer) & ~expected.border
    if wrong.any() or flipped.any():
        raise VerificationError(
            f"expected the graph to decide as {original} does, {int(wrong.sum())} predictions and "
            f"{int(flipped.sum())} decisions of {len(prediction)} differ: nothing was written"
        )
    shift = np.abs(confidence - expected.confidence)[~expected.unclear]
    return {
        "inputs": len(prediction),
        "predictions_differing": 0,
        "decisions_differing": 0,
        "confidence_difference_max": float(shift.max(initial=0.0)),
    }


def verify_preprocessing(
    fused: onnx.ModelProto,
    plain: onnx.ModelProto,
    processor: Any,
    inputs: Inputs,
    expected: Reference,
    threshold: float,
    *,
    weights: Path | None = None,
) -> dict[str, Any]:
    """Compare the fused preprocessing with the processor itself.

    Real pictures are compared by decision. On synthetic ones a decision means little, and a deep
    model may change it for one step of a pixel, so there the pixels themselves are compared.

    Args:
        fused: The graph that takes pictures.
        plain: The graph that takes the processor's pixels.
        processor: The processor.
        inputs: The pictures, and the processor's pixels of them.
        expected: The original's answers.
        threshold: The threshold of both graphs.
        weights: The folder of the graphs' external weights, or None.

    Raises:
        VerificationError: More than 0.5 % of the decisions or predictions on real pictures differ,
            without being ties or at the threshold, or the pixels of a synthetic one by more than
            `MAX_STEPS`.
    """
    assert inputs.raw is not None  # noqa: S101 - the processor made the feeds from pictures
    session = open_graph(plain, weights)
    name = plain.graph.input[0].name
    processed = session.run(contract.GATE_OUTPUTS, {name: inputs.pixels})
    prediction, confidence, defer = run_images(open_graph(fused, weights), inputs.raw)
    flips = (defer != processed[2]) | (prediction != processed[0])
    clear = ((defer != processed[2]) & ~at_threshold(confidence, processed[1], threshold)) | (
        (prediction != processed[0]) & ~expected.tied
    )
    flipped = float(clear.mean())
    probe = open_graph(_probe(fused, name), weights)
    steps = _pixel_difference(probe, inputs) / _step(processor)
    if inputs.synthetic and not steps <= MAX_STEPS:
        raise VerificationError(
            f"expected the fused preprocessing to give the processor's pixels, they differ by "
            f"{steps:.1f} steps of 8 bits (at most {MAX_STEPS:g}): use --preprocessing none"
        )
    if flipped > MAX_FLIPPED and not inputs.synthetic:
        raise VerificationError(
            f"expected the fused preprocessing to decide as the processor does, {flips.mean():.2%} "
            f"of {len(inputs)} differ, {flipped:.2%} clearly (at most {MAX_FLIPPED:.1%}): use "
            "--preprocessing none"
        )
    return {
        "inputs": len(inputs),
        "made_up": inputs.synthetic,
        "decisions_differing": float(flips.mean()),
        "decisions_differing_clearly": flipped,
        "confidence_difference_max": float(np.abs(confidence - processed[1]).max()),
        "pixel_difference_max": steps,
    }


def verify_shapes(
    fused: onnx.ModelProto, source: Source, pictures: Sequence[Any], *, weights: Path | None = None
) -> float:
    """Compare the fused preprocessing with the processor on pictures of every shape.

    Calibration data often have one shape; a device's pictures have others, and some processors
    treat those in another way.

    Args:
        fused: The graph that takes pictures.
        source: The model with its processor.
        pictures: uint8 [height, width, 3] each.
        weights: The folder of the graph's external weights, or None.

    Returns:
        The largest difference, in steps of 8 bits.

    Raises:
        VerificationError: The pixels of a picture differ by more than `MAX_STEPS`.
    """
    (name,) = source.feeds(pictures[:1])
    session = open_graph(_probe(fused, name), weights)
    step, largest = _step(source.processor), 0.0
    for picture in pictures:
        height, width = picture.shape[:2]
        try:
            inputs = Inputs(source.feeds([picture]), [picture], synthetic=True)
        except Exception:  # noqa: BLE001, S112 - the processor cannot prepare it either
            continue
        try:
            steps = _pixel_difference(session, inputs) / step
        except Exception:  # noqa: BLE001 - the graph cannot prepare it, or to another size
            steps = np.inf
        if not steps <= MAX_STEPS:
            raise VerificationError(
                f"expected the fused preprocessing to give the processor's pixels, those of a "
                f"picture of {width} x {height} differ: use --preprocessing none"
            )
        largest = max(largest, steps)
    return largest


def _probe(fused: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return a copy whose output is the pixels in front of the model."""
    probe = copy_model(fused)
    del probe.graph.output[:]
    probe.graph.output.add().name = name
    return probe


def _pixel_difference(session: Any, inputs: Inputs) -> float:
    """Return the largest difference between a graph's pixels and the processor's."""
    source = session.get_inputs()[0].name
    largest = 0.0
    for image, expected in zip(inputs.raw or (), inputs.pixels, strict=True):
        (pixels,) = session.run(None, {source: image[None]})
        # In float64, because the difference of two bytes would wrap around.
        difference = pixels[0].astype(np.float64) - expected
        largest = max(largest, float(np.abs(difference).max()))
    return largest


def _step(processor: Any) -> float:
    """Return the size of one step of an 8-bit picture in the processor's pixels."""
    return float(np.abs(steps_of(processor).scale).max())


def verify_bundle(settings: VerifySettings) -> None:
    """Run a classifier's bundle on data, compare it with a checkpoint, and print the figures.

    Raises:
        BundleError: The bundle is damaged.
        LabelError: The data or the checkpoint have other labels.
        SettingError: The settings are those of a language model.
        VerificationError: Too many answers differ from those of the checkpoint.
    """
    model = EdgeModel.open(settings.bundle)
    if settings.data is None or settings.task is not None:
        raise SettingError(
            f"expected --data DATA without --task for the classifier in {settings.bundle}"
        )
    data = load_split(
        settings.data,
        settings.split,
        labels=model.labels,
        owner=settings.bundle,
        kind=kind_of(model.metadata),
    )
    answers = run_bundle(model, data.inputs)
    print(f"inputs                     {len(data)}")
    print(f"accuracy of the edge model {(answers[0] == data.labels).mean():.4f}")
    print(f"deferral ratio             {answers[2].mean():.4f}")
    if settings.against is None:
        return
    is_quantized = contract.QUANTIZATION in model.metadata.extra
    usual = MAX_FLIPPED_QUANTIZED if is_quantized else MAX_FLIPPED
    allowed = usual if settings.max_flips is None else settings.max_flips
    differing = _compare(settings, settings.against, model, data, answers)
    if differing > allowed:
        raise VerificationError(
            f"expected at most {allowed:.1%} of the decisions to differ from {settings.against}, "
            f"got {differing:.2%}: export it again"
        )


def _compare(
    settings: VerifySettings, against: Path, model: EdgeModel, data: LabelledData, answers: Answers
) -> float:
    """Print the differences from a checkpoint; return the share of differing answers."""
    checkpoint = open_checkpoint(against, kind=kind_of(model.metadata))
    require_labels(checkpoint.labels, against, labels=model.labels, owner=settings.bundle)
    described = model.metadata.second_look
    look = None if described is None else SecondLook.from_fields(described)
    gate = Gate(model.metadata.confidence_kind, model.threshold, look)
    expected = checkpoint_reference(checkpoint, data.inputs, gate)
    prediction, confidence, defer = answers
    expected_defer = expected.defer
    if contract.QUANTIZATION in model.metadata.extra:
        expected_defer = least_sure(expected.confidence, int(defer.sum()))
    flips = defer != expected_defer
    clear = flips
    if contract.QUANTIZATION not in model.metadata.extra:
        clear = flips & ~at_threshold(confidence, expected.confidence, model.threshold)
    shift = np.abs(confidence - expected.confidence)
    wrong = prediction != expected.prediction
    print(f"top-1 disagreement         {wrong.mean():.4f}")
    print(f"decision flips             {flips.mean():.4f}")
    print(f"  beside the threshold     {clear.mean():.4f}")
    print(f"confidence shift           mean {shift.mean():.2e}, largest {shift.max():.2e}")
    return float((clear | (wrong & ~expected.tied)).mean())
