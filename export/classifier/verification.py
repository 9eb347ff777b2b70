"""Checks an export by what it decides, against the original model and its own processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edge_runtime import contract
from export.errors import VerificationError
from export.graphs import copy_of
from export.session import open_graph, run_feeds, run_images
from export.sources.reference import Pictures, Reference
from export.sources.source import Feeds

MAX_FLIPPED = 0.005
MAX_FLIPPED_QUANTIZED = 0.01
MAX_STEPS = 2.0
"""How far a made-up picture's pixels may be off after fused preprocessing, in 8-bit steps."""


def verify_graph(
    gated: onnx.ModelProto,
    feeds: Feeds,
    expected: Reference,
    *,
    original: str = "PyTorch",
    weights: Path | None = None,
) -> dict[str, Any]:
    """Hold the gated graph without preprocessing to what the original says of the same inputs.

    Args:
        gated: The graph.
        feeds: As the graph takes them, e.g. from the checkpoint's processor.
        expected: The original's answers.
        original: What gave them, for the message.
        weights: The folder of the graph's external weights, where it has any.

    Raises:
        VerificationError: A prediction or decision differs where it is not a tie (within 1e-5).
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


def verify_quantized(
    small: tuple[Any, Any, Any], exact: tuple[Any, Any, Any], labels: Any, *, max_flips: float
) -> dict[str, Any]:
    """Hold a quantized graph to the float one, each at its own threshold.

    Args:
        small: Prediction, confidence and defer [n] of the quantized graph.
        exact: Those of the float one.
        labels: int64 [n].
        max_flips: Share of the decisions that may differ.

    Raises:
        VerificationError: More do.
    """
    flips = float((small[2] != exact[2]).mean())
    if flips > max_flips:
        raise VerificationError(
            f"expected at most {max_flips:.2%} of the decisions to flip by quantization, got "
            f"{flips:.2%} of {len(labels)}: raise --max-flips, or quantize less"
        )
    shift = np.abs(small[1] - exact[1])
    return {
        "inputs": len(labels),
        "predictions_differing": float((small[0] != exact[0]).mean()),
        "decisions_differing": flips,
        "confidence_difference_mean": float(shift.mean()),
        "confidence_difference_max": float(shift.max()),
        "accuracy": float((small[0] == labels).mean()),
        "accuracy_float": float((exact[0] == labels).mean()),
    }


def quantized_in_words(found: dict[str, Any]) -> str:
    """Return a line on what `verify_quantized` found."""
    return (
        f"{found['kind']}: {found['bytes'] / 1e6:.2f} MB for {found['bytes_float'] / 1e6:.2f}, "
        f"accuracy {found['accuracy']:.4f} for {found['accuracy_float']:.4f}, "
        f"{found['predictions_differing']:.2%} of the predictions and "
        f"{found['decisions_differing']:.2%} of the decisions differ on {found['inputs']} inputs, "
        f"confidence by {found['confidence_difference_mean']:.1e} on average"
    )


def verify_preprocessing(
    fused: onnx.ModelProto,
    plain: onnx.ModelProto,
    processor: Any,
    images: Pictures,
    pixels: Any,
    expected: Reference,
    *,
    made_up: bool = False,
    weights: Path | None = None,
) -> dict[str, Any]:
    """Compare the fused preprocessing with the processor itself.

    Real pictures are compared by decision. What a model decides on made-up ones says little, and a
    deep one may change its mind for one step of a pixel: there the pixels themselves are compared.

    Raises:
        VerificationError: More than 0.5 % of the decisions or predictions on real pictures differ,
            or the pixels of a made-up one by more than `MAX_STEPS`.
    """
    session = open_graph(plain, weights)
    processed = session.run(contract.GATE_OUTPUTS, {session.get_inputs()[0].name: pixels})
    prediction, confidence, defer = run_images(open_graph(fused, weights), images)
    # On the threshold itself the last bit decides, as in the comparison with PyTorch.
    differing = ((defer != processed[2]) & ~expected.border) | (prediction != processed[0])
    flipped = float(differing.mean())
    step = _step(processor)
    name = plain.graph.input[0].name
    steps = _pixel_difference(open_graph(_probe(fused, name), weights), images, pixels) / step
    if made_up and not steps <= MAX_STEPS:
        raise VerificationError(
            f"expected the fused preprocessing to give the processor's pixels, {steps:.1f} steps "
            f"of 8 bits are between them (at most {MAX_STEPS:g}): use --preprocessing none"
        )
    if flipped > MAX_FLIPPED and not made_up:
        raise VerificationError(
            f"expected the fused preprocessing to decide as the processor does, {flipped:.2%} of "
            f"{len(images)} differ (at most {MAX_FLIPPED:.1%}): use --preprocessing none"
        )
    return {
        "inputs": len(images),
        "made_up": made_up,
        "decisions_differing": flipped,
        "confidence_difference_max": float(np.abs(confidence - processed[1]).max()),
        "pixel_difference_max": steps,
    }


def _probe(fused: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return a copy that gives the pixels in front of the model."""
    probe = copy_of(fused)
    del probe.graph.output[:]
    probe.graph.output.add().name = name
    return probe


def _pixel_difference(session: Any, images: Pictures, expected: Any) -> float:
    """Return the largest difference of the pixels that a graph gives."""
    source = session.get_inputs()[0].name
    largest = 0.0
    for index in range(len(images)):
        (pixels,) = session.run(None, {source: images[index][None]})
        # Bytes that are subtracted would wrap around.
        apart = pixels[0].astype(np.float64) - expected[index]
        largest = max(largest, float(np.abs(apart).max()))
    return largest


def _step(processor: Any) -> float:
    """Return what one step of an 8-bit picture is among the pixels."""
    settings = processor.to_dict()
    factor: float = settings["rescale_factor"] if settings.get("do_rescale") else 1.0
    std: float = min(settings["image_std"]) if settings.get("do_normalize") else 1.0
    return factor / std
