"""What a program and an ONNX file have in common: a graph, and what it does not say of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper

from edge_runtime.contract import InputDescription
from export.classifier.preprocessing import least_opset
from export.commands.build import BuildSettings
from export.errors import GraphError, LabelError
from export.graphs import (
    LEAST_OPSET,
    copy_of,
    drop_weights_from_inputs,
    has_channels_last,
    has_halves,
    keep_output,
    opset_of,
    raise_opset,
    rename_reserved,
    squashed_by,
    strip_traces,
)

# MERGEDOC export/sources/labels.py: 'The names of the classes of a model that does not say them itself.'
# MERGEDOC export/sources/logits.py: "Finds out whether a value of somebody else's graph is what the gate takes: logits."
from export.sources.pixels import (
    Original,
    Pixels,
    describe_input,
    made_up_pixels,
    open_processor,
    processed,
    size_of,
)
from export.sources.probes import made_up_pictures
from export.sources.reference import Gate, Reference, decide
from export.sources.source import Feeds, Inputs, Pictures
from train import data
from train.data import Kind
from train.models import VIEWS, DeferralHead

_QUANTIZED = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulNBits"}
)

_RANK = 2
_PICTURE_RANK = 4
_SUMS_TO_ONE = 1e-2  # fp16 and int8 probabilities do so only roughly


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
        model = copy_of(original.model)
        drop_weights_from_inputs(model.graph)
        described = describe_input(model.graph, original.place)
        processor = open_processor(settings, described)
        refuse_squashed(original)
        logits = require_logits(original, made_up_pixels(described, processor, settings.seed))
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
        return size_of(self.input, self.processor)

    def graph(self) -> onnx.ModelProto:
        """Return the model up to its logits."""
        return self.prepared

    def feeds(self, given: Pictures) -> Feeds:
        """Return pixels in the model's own type and order of axes."""
        return {self.input.name: processed(self.processor, given, self.input)}

    def made_up(self, seed: int) -> Inputs:
        """Return smooth pictures, or numbers where there is no processor."""
        if self.processor is None:
            pixels = made_up_pixels(self.input, None, seed)
            return Inputs({self.input.name: pixels}, None, made_up=True)
        images = made_up_pictures(self.processor, self.image_size, seed)
        return Inputs(self.feeds(images), images, made_up=True)

    def ask(self, inputs: Inputs, gate: Gate) -> Reference:
        """Let the original give logits, and decide by them."""

        def ask(view: str | None) -> Pixels:
            if view is None:
                return self.original.run(inputs.pixels)
            return self.original.run(_seen(inputs.pixels, view, self.input))

        return decide(ask, gate, tolerance=self.original.tolerance)

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


def _seen(pixels: Pixels, view: str, described: InputDescription) -> Pixels:
    """Return another view of pixels; views are defined for channels first."""
    is_last = has_channels_last(described.shape)
    first = np.moveaxis(pixels, -1, 1) if is_last else pixels
    seen = VIEWS[view](torch.from_numpy(np.ascontiguousarray(first))).numpy()
    return np.ascontiguousarray(np.moveaxis(seen, 1, -1) if is_last else seen)


def _require_opset(original: Original) -> None:
    opset = opset_of(original.model)
    if opset < LEAST_OPSET:
        raise GraphError(
            f"expected opset {LEAST_OPSET} or newer in {original.place}, got {opset or 'none'}: "
            "export it with a newer one, or convert it with onnx.version_converter"
        )


def _require_float32(original: Original, kind: str) -> None:
    operators = {node.op_type for node in original.model.graph.node}
    halves = has_halves(original.model.graph)
    if halves or operators & _QUANTIZED:
        raise GraphError(
            f"expected a float32 model with --quantize {kind}, {original.place} is "
            f"{'half precision' if halves else 'already quantized'}: leave out --quantize, or "
            "give the original"
        )


def _labels(settings: BuildSettings) -> tuple[object, tuple[str, ...]]:
    if settings.labels is not None:
        return settings.labels, read_labels(settings.labels)
    assert settings.calibrate is not None  # noqa: S101 - checked on creation
    return settings.calibrate, labels_of_data(settings.calibrate)


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the labels of a text file, one a line, or of a folder's `config.json`.

    Raises:
        LabelError: There are none.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise LabelError(
            f"expected labels in {file}, got {reason}: name a text file with one label a line, or "
            "a folder with config.json"
        ) from None
    labels = _of_config(text, file) if path.is_dir() else _of_lines(text)
    if not labels:
        raise LabelError(f"expected one label a line in {file}, it is empty: fill it")
    return labels


def labels_of_data(name: str) -> tuple[str, ...]:
    """Return the labels of a data set."""
    return tuple(data.load(name).label_names)


def require_number(labels: tuple[str, ...], owner: object, classes: int, model: Path) -> None:
    """Raise `LabelError` unless there is a label for each class."""
    if len(labels) != classes:
        raise LabelError(
            f"expected {classes} labels, as many as {model} has classes, {owner} has "
            f"{len(labels)}: name others with --labels"
        )


def _of_lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _of_config(text: str, file: Path) -> tuple[str, ...]:
    try:
        names: dict[str, Any] = json.loads(text)["id2label"]
        return tuple(str(names[str(i)]) for i in range(len(names)))
    except (ValueError, KeyError, TypeError):
        raise LabelError(
            f"expected id2label with the numbers from 0 in {file}, got none: name a text file "
            "with one label a line"
        ) from None


def is_of_classes(shape: Sequence[Any]) -> bool:
    """Tell [batch, classes], and what a convolution at the end makes: [batch, classes, 1, 1]."""
    return len(shape) == _RANK or is_of_one_pixel(shape)


def is_of_one_pixel(shape: Sequence[Any]) -> bool:
    """Tell [batch, classes, 1, 1] and [batch, 1, 1, classes]."""
    sides = [axis for axis in shape[1:] if isinstance(axis, int) and axis == 1]
    return len(shape) == _PICTURE_RANK and len(sides) >= _PICTURE_RANK - _RANK


def flatten(model: onnx.ModelProto, name: str) -> str:
    """Let a graph give a value as [batch, classes] too, in place, and return the name of that."""
    flat = f"{name}/flat"
    model.graph.node.append(helper.make_node("Flatten", [name], [flat], axis=1))
    model.graph.output.add().name = flat
    return flat


def refuse_squashed(original: Original) -> None:
    """Raise `GraphError` where an operator makes probabilities of them."""
    found = squashed_by(original.model.graph, original.logits)
    if found is not None:
        operator, before = found
        raise GraphError(
            f"expected logits in {original.place}, {original.logits!r} is what {operator} makes of "
            f"{before!r}: give {_instead(original, before)}"
        )


def require_logits(original: Original, pixels: Pixels) -> Pixels:
    """Return the original's logits of made-up inputs.

    Raises:
        GraphError: They have another shape, or are probabilities.
    """
    logits = original.run(pixels)
    if logits.ndim != _RANK or len(logits) != len(pixels):
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
