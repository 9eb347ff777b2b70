"""The steps of an export: trace, gate, fuse, calibrate, verify, write."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from edge_runtime import contract
from edge_runtime.contract import SecondLook
from export import bundle, calibration, verification
from export.calibration.look import EVERY_INPUT
from export.commands.build import BuildSettings, input_of_pixels
from export.deferral_head import fitted_on_note
from export.errors import GraphError
from export.gate import append_gate, set_threshold
from export.labelled import load_split
from export.preprocessing import fuse_preprocessing
from export.reference import Gate, ask_pytorch
from export.second_look import set_band
from export.session import open_graph, run_images
from export.torch_exporter import export_logits
from train.data import LabelledData
from train.models import Checkpoint, DeferralHead, open_checkpoint, read_head, weights_sha256

_VERIFIED = 256  # inputs that verify an export; all calibration data choose the threshold
_SIZES = ((1.0, 1.0), (1.5, 1.25), (0.75, 1.0), (2.0, 3.0))  # of made-up pictures, by side


@dataclass
class _Export:
    """The graphs on their way, without and with preprocessing, and the deferral head in them."""

    plain: onnx.ModelProto
    shipped: onnx.ModelProto
    input: contract.InputDescription
    head: DeferralHead | None


def build_bundle(settings: BuildSettings) -> None:
    """Export a checkpoint; see `BuildSettings`.

    Raises:
        ExportError: The graph, its preprocessing, the data or the verification failed; nothing was
            written.
    """
    checkpoint = open_checkpoint(settings.checkpoint)
    split = _calibration_split(settings, checkpoint)
    images = _images(settings, checkpoint, split)
    export = _trace(settings, checkpoint)
    gate, record = _choose_gate(settings, export, checkpoint, split)
    for graph in (export.plain, export.shipped):
        set_threshold(graph, gate.threshold)
        if gate.look is not None:
            set_band(graph, *gate.look.limits)
    verified = _verify(settings, export, checkpoint, images, gate)
    metadata = _metadata(settings, checkpoint, export, gate, record)
    bundle.write_bundle(settings.out, export.shipped, metadata, verified)
    achieved = f", defers {record['achieved']:.1%} of {record['n']}" if record else ""
    looked = calibration.band_note(gate.threshold, gate.look)
    seen = fitted_on_note(metadata, settings.calibrate, settings.split)
    print(f"{settings.out}: threshold {gate.threshold:.6g}{achieved}{looked}{seen}", flush=True)


def image_size(checkpoint: Checkpoint) -> tuple[int, int]:
    """Return the (height, width) that the model works at."""
    settings = checkpoint.processor.to_dict()
    for name in ("crop_size", "size"):
        size = settings.get(name) or {}
        if name == "crop_size" and not settings.get("do_center_crop"):
            continue
        if "height" in size:
            return int(size["height"]), int(size["width"])
        if "shortest_edge" in size:
            return int(size["shortest_edge"]), int(size["shortest_edge"])
    side = getattr(checkpoint.model.config, "image_size", None)
    if side is None:
        raise GraphError(
            "expected the size of the model's pictures in its processor or config, got none: add "
            "image_size to config.json"
        )
    return (int(side), int(side)) if isinstance(side, int) else (int(side[0]), int(side[1]))


def _calibration_split(settings: BuildSettings, checkpoint: Checkpoint) -> LabelledData | None:
    if settings.calibrate is None:
        return None
    return load_split(
        settings.calibrate, settings.split, labels=checkpoint.labels, owner=settings.checkpoint
    )


def _images(
    settings: BuildSettings, checkpoint: Checkpoint, split: LabelledData | None
) -> list[Any]:
    """Return pictures to verify with: of the calibration data, or made-up ones of several sizes."""
    if split is not None:
        return [split.inputs[i] for i in range(min(len(split), _VERIFIED))]
    height, width = image_size(checkpoint)
    draws = np.random.default_rng(settings.seed)
    shapes = [(round(height * a), round(width * b), 3) for a, b in _SIZES]
    if not checkpoint.processor.to_dict().get("do_resize"):
        shapes = [(height, width, 3)]
    # Smooth pictures: a processor's filters are made for these.
    return [_smooth(draws, shapes[i % len(shapes)]) for i in range(64)]


def _smooth(draws: np.random.Generator, shape: tuple[int, int, int]) -> Any:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = draws.uniform(0, 6, (4, 3))
    surface = np.sin(
        rows[..., None] * waves[0] / shape[0] + columns[..., None] * waves[1] / shape[1] + waves[2]
    )
    return np.round(127.5 * (surface + 1)).astype(np.uint8)


def _trace(settings: BuildSettings, checkpoint: Checkpoint) -> _Export:
    head = read_head(checkpoint) if settings.confidence == contract.DEFERRAL_HEAD else None
    size = image_size(checkpoint)
    plain = export_logits(checkpoint, size)
    append_gate(
        plain,
        kind=settings.confidence,
        threshold=0.0,
        emit=settings.emit,
        view=settings.view,
        head=head,
    )
    if settings.preprocessing == "none":
        return _Export(plain, plain, input_of_pixels(*size), head)
    shipped = onnx.ModelProto()
    shipped.CopyFrom(plain)
    described = fuse_preprocessing(shipped, checkpoint.processor, size)
    onnx.checker.check_model(shipped)
    return _Export(plain, shipped, described, head)


def _choose_gate(
    settings: BuildSettings, export: _Export, checkpoint: Checkpoint, split: LabelledData | None
) -> tuple[Gate, dict[str, Any] | None]:
    kind, view = settings.confidence, settings.view
    if settings.threshold is not None:
        threshold = float(np.float32(settings.threshold))
        return Gate(kind, threshold, None if view is None else _of_every_input(view)), None
    assert split is not None  # noqa: S101 - a goal comes with data
    goal = settings.goal()
    sample, look = _measure(settings, export, checkpoint, split, goal)
    threshold, record = calibration.calibrate(
        goal, sample, data=str(settings.calibrate), split=settings.split
    )
    return Gate(kind, threshold, look), record


def _of_every_input(view: str) -> SecondLook:
    return SecondLook.from_limits((-math.inf, math.inf), view=view, band=EVERY_INPUT, share=1.0)


def _measure(
    settings: BuildSettings,
    export: _Export,
    checkpoint: Checkpoint,
    split: LabelledData,
    goal: calibration.Goal,
) -> tuple[calibration.Sample, SecondLook | None]:
    """Return what the threshold is chosen on, and the second look behind it."""
    large_right = settings.large_right(split)

    def sample() -> calibration.Sample:
        prediction, confidence = _ask_graph(export.shipped, checkpoint, split)
        return calibration.Sample(confidence, prediction == split.labels, large_right)

    if settings.view is None:
        return sample(), None

    def measure(low: float, high: float) -> calibration.Sample:
        set_band(export.shipped, low, high)
        return sample()

    return calibration.calibrate_look(
        measure, view=settings.view, goal=goal, band=settings.half_width
    )


def _ask_graph(model: onnx.ModelProto, checkpoint: Checkpoint, split: LabelledData) -> Any:
    """Return (prediction int64 [n], confidence float32 [n]) of the exported graph itself."""
    session = open_graph(model)
    if session.get_inputs()[0].name == contract.IMAGE:
        return run_images(session, split.inputs)[:2]
    images = [split.inputs[i] for i in range(len(split))]
    pixels = checkpoint.pixel_values(images).numpy()
    return session.run(
        [contract.PREDICTION, contract.CONFIDENCE], {session.get_inputs()[0].name: pixels}
    )


def _verify(
    settings: BuildSettings,
    export: _Export,
    checkpoint: Checkpoint,
    images: list[Any],
    gate: Gate,
) -> dict[str, Any]:
    expected = ask_pytorch(checkpoint, images, gate)
    pixels = checkpoint.pixel_values(images).numpy()
    result = {"graph": verification.verify_graph(export.plain, pixels, expected)}
    if settings.preprocessing == "fused":
        result["preprocessing"] = verification.verify_preprocessing(
            export.shipped,
            export.plain,
            checkpoint,
            images,
            pixels,
            expected,
            made_up=settings.calibrate is None,
        )
    return result


def _metadata(
    settings: BuildSettings,
    checkpoint: Checkpoint,
    export: _Export,
    gate: Gate,
    record: dict[str, Any] | None,
) -> contract.GateMetadata:
    return contract.GateMetadata(
        contract_version=contract.CONTRACT_VERSION,
        task=contract.TASK_IMAGE_CLASSIFICATION,
        confidence_kind=gate.kind,
        confidence_range=contract.confidence_range(
            gate.kind, len(checkpoint.labels), views=2 if gate.look else 1
        ),
        threshold=gate.threshold,
        labels=checkpoint.labels,
        input=export.input,
        calibration=record,
        second_look=dataclasses.asdict(gate.look) if gate.look else None,
        source_sha256=weights_sha256(settings.checkpoint),
        toolkit_version=bundle.toolkit_version(),
        extra={} if export.head is None else {contract.DEFERRAL_HEAD: export.head.record},
    )
