"""What a program and an ONNX file have in common: a graph, and what it does not say of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto
from transformers import AutoImageProcessor

from edge_runtime.contract import InputDescription
from export.commands.build import BuildSettings
from export.errors import GraphError, PreprocessingError
from export.graphs import (
    LEAST_OPSET,
    drop_weights_from_inputs,
    keep_output,
    opset_of,
    raise_opset,
    rename_reserved,
    squashed_by,
    strip_traces,
    tensors,
)
from export.made_up import image_size, made_up_pictures, made_up_tensor
from export.preprocessing import least_opset
from export.reference import Gate, Reference, decide
from export.sources.labels import labels_of_data, read_labels, require_number
from export.sources.source import Feeds, Inputs, Pictures
from train.data import Kind
from train.models import VIEWS, DeferralHead
from train.models.kinds import SAFE

Pixels = npt.NDArray[Any]
Run = Callable[[Pixels], Pixels]
"""Takes inputs [n, ...] and returns the original's logits, float32 [n, classes]."""
_ELEMENTS: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}
_QUANTIZED = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulNBits"}
)
_CHANNELS, _IMAGE_RANK = 3, 4
_FREE_SIDE = 224  # where neither graph nor processor says how large pictures are
_SUMS_TO_ONE = 1e-2  # fp16 and int8 probabilities do so only roughly


@dataclass(frozen=True, eq=False)
class Original:
    """A model as it came.

    Attributes:
        place: Its file.
        files: All its files.
        model: Its graph, which has the value `logits`.
        logits: The name of that.
        element: Its type, of `onnx.TensorProto`.
        weights: The folder of the graph's external weights, or None.
        run: The original itself.
        runs_in: What a message calls it by.
    """

    place: Path
    files: tuple[Path, ...]
    model: onnx.ModelProto
    logits: str
    element: int
    weights: Path | None
    run: Run
    runs_in: str


@dataclass(frozen=True, eq=False)
class ForeignSource:
    """A model of somebody else; see `Source`."""

    original: Original
    prepared: onnx.ModelProto
    input: InputDescription
    labels: tuple[str, ...]
    processor: Any | None
    kind: Kind = "image"
    tokenizer: None = None
    training: None = None

    @classmethod
    def of(cls, original: Original, settings: BuildSettings) -> ForeignSource:
        """Find out what the model does not say, and make its graph ready for the gate.

        Raises:
            GraphError: It has not one float input with a free batch axis, gives no logits, or
                gives probabilities.
            LabelError: There are more or fewer labels than classes.
            PreprocessingError: The processor does not open, or makes other pictures.
        """
        _require_opset(original)
        if settings.quantize != "none":
            _require_float32(original, settings.quantize)
        model = onnx.ModelProto()
        model.CopyFrom(original.model)
        drop_weights_from_inputs(model.graph)
        described = _describe(model.graph, original.place)
        processor = _open_processor(settings, described)
        _refuse_squashed(original)
        logits = _require_logits(original, _made_up_pixels(described, processor, settings.seed))
        owner, labels = _labels(settings)
        require_number(labels, owner, logits.shape[1], original.place)
        strip_traces(model)
        keep_output(model.graph, original.logits, original.element, logits.shape[1])
        rename_reserved(model.graph)
        if processor is not None and settings.preprocessing == "fused":
            model = raise_opset(model, least_opset(processor))
        named = InputDescription(
            name=model.graph.input[0].name, dtype=described.dtype, shape=described.shape
        )
        return cls(original, model, named, labels, processor)

    @property
    def place(self) -> Path:
        """The file."""
        return self.original.place

    @property
    def runs_in(self) -> str:
        """What runs the original."""
        return self.original.runs_in

    @property
    def weights(self) -> Path | None:
        """The folder of the graph's external weights, or None."""
        return self.original.weights

    @property
    def image_size(self) -> tuple[int, int]:
        """The (height, width) of the graph's input, where it is fixed, or of the processor."""
        return _size(self.input, self.processor)

    def graph(self) -> onnx.ModelProto:
        """Return the model up to its logits."""
        return self.prepared

    def feeds(self, given: Pictures) -> Feeds:
        """Return [n, 3, height, width] in the model's own type."""
        return {self.input.name: _processed(self.processor, given).astype(self.input.dtype)}

    def made_up(self, seed: int) -> Inputs:
        """Return smooth pictures, or numbers where there is no processor."""
        if self.processor is None:
            pixels = _made_up_pixels(self.input, None, seed)
            return Inputs({self.input.name: pixels}, None, made_up=True)
        images = made_up_pictures(self.processor, self.image_size, seed)
        return Inputs(self.feeds(images), images, made_up=True)

    def ask(self, inputs: Inputs, gate: Gate) -> Reference:
        """Let the original give logits, and decide by them."""

        def ask(view: str | None) -> Pixels:
            if view is None:
                return self.original.run(inputs.pixels)
            seen = VIEWS[view](torch.from_numpy(inputs.pixels))
            return self.original.run(np.ascontiguousarray(seen.numpy()))

        return decide(ask, gate)

    def deferral_head(self) -> DeferralHead:
        """Refuse: a head is fitted for a checkpoint."""
        raise GraphError(f"expected a checkpoint with a deferral head, got {self.place}")

    def sha256(self) -> str:
        """Return that of all its files, one after the other."""
        digest = hashlib.sha256()
        for file in self.original.files:
            with file.open("rb") as content:
                while block := content.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


def _require_opset(original: Original) -> None:
    opset = opset_of(original.model)
    if opset < LEAST_OPSET:
        raise GraphError(
            f"expected opset {LEAST_OPSET} or newer in {original.place}, got {opset or 'none'}: "
            "export it with a newer one, or convert it with onnx.version_converter"
        )


def _require_float32(original: Original, kind: str) -> None:
    operators = {node.op_type for node in original.model.graph.node}
    halves = any(t.data_type == TensorProto.FLOAT16 for t in tensors(original.model.graph))
    if halves or operators & _QUANTIZED:
        raise GraphError(
            f"expected a float32 model with --quantize {kind}, {original.place} is "
            f"{'half precision' if halves else 'already quantized'}: leave out --quantize, or "
            "give the original"
        )


def _describe(graph: onnx.GraphProto, place: Path) -> InputDescription:
    """Return the one input, its batch axis named."""
    if len(graph.input) != 1:
        names = ", ".join(value.name for value in graph.input) or "none"
        raise GraphError(f"expected one input in {place}, got {len(graph.input)} ({names})")
    value = graph.input[0]
    kind = value.type.tensor_type
    if kind.elem_type not in _ELEMENTS:
        raise GraphError(
            f"expected a float32 or float16 input in {place}, {value.name} is "
            f"{TensorProto.DataType.Name(kind.elem_type)}: cut off what is in front of the model"
        )
    if not kind.shape.dim:
        raise GraphError(f"expected an input [batch, ...] in {place}, {value.name} has no shape")
    batch = kind.shape.dim[0]
    if batch.HasField("dim_value"):
        raise GraphError(
            f"expected a free batch axis in {place}, {value.name} always takes {batch.dim_value}: "
            "export it with a dynamic batch axis"
        )
    batch.dim_param = "batch"
    axes = tuple(_axis(axis, number) for number, axis in enumerate(kind.shape.dim))
    return InputDescription(name=value.name, dtype=_ELEMENTS[kind.elem_type], shape=axes)


def _axis(axis: Any, number: int) -> int | str:
    return int(axis.dim_value) if axis.HasField("dim_value") else axis.dim_param or f"axis{number}"


def _open_processor(settings: BuildSettings, described: InputDescription) -> Any | None:
    if settings.processor is None:
        return None
    try:
        processor = AutoImageProcessor.from_pretrained(settings.processor, use_fast=False, **SAFE)
    except Exception as error:  # noqa: BLE001 - transformers raises OSError, ValueError, KeyError
        reason = " ".join(str(error).split())[:200]
        raise PreprocessingError(
            f"expected an image processor in {settings.processor}, it does not open ({reason}): "
            "name a folder with preprocessor_config.json"
        ) from None
    height, width = _size(described, processor)
    picture = np.zeros((height, width, _CHANNELS), np.uint8)
    made = _processed(processor, [picture]).shape
    fits = len(made) == len(described.shape) and all(
        isinstance(axis, str) or axis == size
        for axis, size in zip(described.shape[1:], made[1:], strict=True)
    )
    if not fits:
        raise PreprocessingError(
            f"expected a processor that makes {list(described.shape)} as {described.name} takes, "
            f"{settings.processor} makes {list(made)}: name another, or leave out --processor"
        )
    return processor


def _processed(processor: Any, images: Pictures) -> npt.NDArray[np.float32]:
    pictures = [images[i] for i in range(len(images))]
    made = processor(pictures, return_tensors="np", input_data_format="channels_last")
    return np.ascontiguousarray(made["pixel_values"], np.float32)


def _size(described: InputDescription, processor: Any | None) -> tuple[int, int]:
    sides = described.shape[-2:]
    if len(described.shape) == _IMAGE_RANK and all(isinstance(side, int) for side in sides):
        return int(sides[0]), int(sides[1])
    return image_size(processor, _FREE_SIDE)


def _made_up_pixels(described: InputDescription, processor: Any | None, seed: int) -> Pixels:
    if processor is not None:
        pictures = made_up_pictures(processor, _size(described, processor), seed)
        return _processed(processor, pictures).astype(described.dtype)
    shape = described.shape[1:]
    sides = tuple(axis if isinstance(axis, int) else _FREE_SIDE for axis in shape)
    return made_up_tensor(sides, described.dtype, seed)


def _refuse_squashed(original: Original) -> None:
    found = squashed_by(original.model.graph, original.logits)
    if found is not None:
        operator, before = found
        raise GraphError(
            f"expected logits in {original.place}, {original.logits!r} is what {operator} makes of "
            f"{before!r}: give {_instead(original, before)}"
        )


def _require_logits(original: Original, pixels: Pixels) -> Pixels:
    """Return the original's logits of made-up inputs."""
    logits = original.run(pixels)
    if logits.ndim != 2 or len(logits) != len(pixels):  # noqa: PLR2004 - [batch, classes]
        raise GraphError(
            f"expected logits [batch, classes] in {original.place}, {original.logits!r} is "
            f"{list(logits.shape)} for {len(pixels)} inputs: name another with --logits"
        )
    rows = logits.astype(np.float64)
    if rows.shape[1] > 1 and (rows >= 0).all() and (np.abs(rows.sum(1) - 1) < _SUMS_TO_ONE).all():
        raise GraphError(
            f"expected logits in {original.place}, {original.logits!r} holds probabilities (each "
            f"row is positive and sums to 1): give {_instead(original, None)}"
        )
    return logits


def _instead(original: Original, before: str | None) -> str:
    if original.place.suffix == ".pt2":
        return "a program that returns its logits, without softmax"
    return f"--logits {before}" if before else "--logits the value in front of the softmax"


def _labels(settings: BuildSettings) -> tuple[object, tuple[str, ...]]:
    if settings.labels is not None:
        return settings.labels, read_labels(settings.labels)
    assert settings.calibrate is not None  # noqa: S101 - checked on creation
    return settings.calibrate, labels_of_data(settings.calibrate)
