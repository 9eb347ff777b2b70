"""A classifier made by other tools as a source; the part that programs and ONNX files share."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import torch
from onnx import helper

from edge_runtime.contract import InputDescription
from edge_runtime.names import class_name, read_class_names, unique_names
from edge_runtime.reading import parse_json, read_text
from export.commands.build import Scores, SourceSettings
from export.errors import GraphError, LabelError
from export.external import OnnxFile
from export.graphs import (
    LEAST_OPSET,
    copy_model,
    drop_weights_from_inputs,
    find_squashing,
    has_channels_last,
    keep_output,
    opset_of,
    rename_reserved,
    strip_traces,
)
from export.sources.pixels import (
    Pixels,
    describe_input,
    open_processor,
    process,
    size_of,
    synthetic_pixels,
)
from export.sources.probes import synthetic_pictures
from export.sources.reference import TOLERANCE, Gate, Reference, logits_reference
from export.sources.scores import append_logits, as_logits, require_scores
from export.sources.source import Feeds, Inputs, Pictures, Source
from train import data
from train.models import VIEWS

_Content = TypeVar("_Content")
_RANK = 2
_PICTURE_RANK = 4
_PROBE_SEED = 0
_CAVEATS = {
    "Softmax": ", or --scores probabilities",
    "Sigmoid": " if one class alone is right for an input: a model of several labels has no place "
    "in a cascade",
}
"""What else to say of an operator that squashes."""


@dataclass(frozen=True, eq=False)
class Original:
    """A foreign model as it came.

    Attributes:
        place: The file that the user named.
        file: The graph, its weights, and the files of the model.
        logits: Name of the logits, or of the scores that stand for them, in the graph.
        element: Their type, of `onnx.TensorProto`.
        run: The original itself, from inputs [n, ...] to these float32 [n, columns].
        runs_in: Name of the original in messages.
        tolerance: Rounding error of the original; see `export.sources.reference`.
    """

    place: Path
    file: OnnxFile
    logits: str
    element: int
    run: Callable[[Pixels], Pixels]
    runs_in: str
    tolerance: float = TOLERANCE


@dataclass(frozen=True, eq=False, kw_only=True)
class ForeignSource(Source):
    """A foreign classifier.

    Attributes:
        original: The model as it came.
        declared: What its output is, if the user says so.
        scores: What its output is.
        prepared: Its graph, ready for the gate.
    """

    original: Original
    declared: Scores | None
    scores: Scores
    prepared: onnx.ModelProto

    def translate(self) -> OnnxFile:
        """Return the model up to its logits."""
        return dataclasses.replace(self.original.file, model=self.prepared)

    def feeds(self, raw: Pictures) -> Feeds:
        """Return pixels in the model's own type and order of axes."""
        return {self.input.name: process(self.processor, raw, self.input)}

    def synthetic(self, seed: int) -> Inputs:
        """Return smooth pictures, or numbers without a processor."""
        if self.processor is None or self.image_size is None:
            pixels = synthetic_pixels(self.input, None, seed)
            return Inputs({self.input.name: pixels}, None, synthetic=True)
        pictures = synthetic_pictures(self.processor, self.image_size, seed)
        return Inputs(self.feeds(pictures), pictures, synthetic=True)

    def reference(self, inputs: Inputs, gate: Gate) -> Reference:
        """Return the decisions that follow from the original's logits.

        Raises:
            GraphError: On data it turns out that its output is no logits.
        """

        def logits(view: str | None) -> Pixels:
            pixels = inputs.pixels if view is None else self._view(inputs.pixels, view)
            values = self.original.run(pixels)
            _require_scores(self.original, values, self.declared)
            return as_logits(values, self.scores)

        return logits_reference(logits, gate, tolerance=self.original.tolerance)

    def _view(self, pixels: Pixels, view: str) -> Pixels:
        """Return another view of pixels; views are defined for channels first."""
        is_last = has_channels_last(self.input.shape)
        first = np.moveaxis(pixels, -1, 1) if is_last else pixels
        seen = VIEWS[view](torch.from_numpy(np.ascontiguousarray(first))).numpy()
        return np.ascontiguousarray(np.moveaxis(seen, 1, -1) if is_last else seen)

    def sha256(self) -> str:
        """Return the sha256 of all its files, one after the other."""
        digest = hashlib.sha256()
        for file in self.original.file.files:
            with file.open("rb") as content:
                while block := content.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


def prepare(original: Original, settings: SourceSettings) -> ForeignSource:
    """Complete and check the description of a model, and prepare its graph for the gate.

    Raises:
        GraphError: The model does not take one float input with a free batch axis, or does not
            give logits.
        LabelError: The numbers of labels and classes differ.
        PreprocessingError: The processor does not open, or makes other pixels.
    """
    opset = opset_of(original.file.model)
    if opset < LEAST_OPSET:
        raise GraphError(
            f"expected opset {LEAST_OPSET} or newer in {original.place}, got {opset or 'none'}: "
            "export it with a newer one, or convert it with onnx.version_converter"
        )
    model = copy_model(original.file.model)
    drop_weights_from_inputs(model.graph)
    described = describe_input(model.graph, original.place)
    processor = settings.processor and open_processor(settings.processor, described)
    if settings.scores is None:
        _refuse_squashed(original)
    values = _run_probes(original, synthetic_pixels(described, processor, _PROBE_SEED))
    scores = _require_scores(original, values, settings.scores)
    columns = values.shape[1]
    classes = max(columns, 2)  # a single one tells two classes apart
    labels = _labels(settings, classes, original.place)
    strip_traces(model)
    logits, element = append_logits(model, original.logits, original.element, scores, columns)
    keep_output(model.graph, logits, element, classes)
    rename_reserved(model.graph)
    name = model.graph.input[0].name
    return ForeignSource(
        place=original.place,
        runs_in=original.runs_in,
        labels=labels,
        input=InputDescription(name=name, dtype=described.dtype, shape=described.shape),
        processor=processor,
        image_size=size_of(described, processor) if processor else None,
        original=original,
        declared=settings.scores,
        scores=scores,
        prepared=model,
    )


def _labels(settings: SourceSettings, classes: int, place: Path) -> tuple[str, ...]:
    if settings.labels is not None:
        owner: object = settings.labels
        labels = read_labels(settings.labels)
    else:
        assert settings.calibrate is not None  # noqa: S101 - the settings name labels or data
        owner = settings.calibrate
        labels = tuple(data.load(settings.calibrate).label_names)
    if len(labels) != classes:
        raise LabelError(
            f"expected {classes} labels, one for each class of {place}, got {len(labels)} in "
            f"{owner}: name others with --labels"
        )
    return unique_names(labels)


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the labels in a text file, one a line, or in a folder's `config.json`.

    Raises:
        LabelError: There are no labels.
    """
    if path.is_dir():
        return _config_labels(path / "config.json")
    labels = tuple(name.strip() for name in _read(path, read_class_names) if name.strip())
    if not labels:
        raise LabelError(f"expected one label a line in {path}, got an empty file: fill it")
    return labels


def _read(file: Path, reader: Callable[[Path], _Content]) -> _Content:
    try:
        return reader(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not text in UTF-8"
        raise LabelError(
            f"expected labels in {file}, got {reason}: name a text file with one label a line, or "
            "a folder with config.json"
        ) from None


def _config_labels(file: Path) -> tuple[str, ...]:
    try:
        names: dict[str, Any] = parse_json(_read(file, read_text))["id2label"]
        labels = tuple(class_name(str(names[str(i)])) for i in range(len(names)))
    except (ValueError, KeyError, TypeError):
        labels = ()
    if not labels:
        raise LabelError(
            f"expected id2label with numbers from 0 in {file}, got none: name a text file with one "
            "label a line"
        )
    return labels


def is_class_shape(shape: Sequence[Any]) -> bool:
    """Return whether a shape is [batch, classes], or one pixel from a final convolution."""
    return len(shape) == _RANK or (len(shape) > 1 and is_pixel_shape(shape))


def is_pixel_shape(shape: Sequence[Any]) -> bool:
    """Return whether a shape is [batch, classes, 1, 1], [batch, 1, 1, classes] or [batch]."""
    if len(shape) == 1:
        return True
    sides = [axis for axis in shape[1:] if isinstance(axis, int) and axis == 1]
    return len(shape) == _PICTURE_RANK and len(sides) >= _PICTURE_RANK - _RANK


def flatten(model: onnx.ModelProto, name: str) -> str:
    """Add a value as [batch, classes] to the outputs, in place, and return its name."""
    flat = f"{name}/flat"
    model.graph.node.append(helper.make_node("Flatten", [name], [flat], axis=1))
    model.graph.output.add().name = flat
    return flat


def _refuse_squashed(original: Original) -> None:
    """Raise `GraphError` if the named value is already probabilities or classes."""
    squashing = find_squashing(original.file.model.graph, original.logits)
    if squashing is not None:
        operator, before = squashing
        raise GraphError(
            f"expected logits in {original.place}, {original.logits!r} is what {operator} makes of "
            f"{before!r}: give {_alternative(original, before)}{_CAVEATS.get(operator, '')}"
        )


def _run_probes(original: Original, pixels: Pixels) -> Pixels:
    """Return the original's values [n, columns] for synthetic inputs.

    Raises:
        GraphError: They have another shape.
    """
    values = original.run(pixels)
    if values.ndim != _RANK or len(values) != len(pixels):
        raise GraphError(
            f"expected logits [batch, classes] in {original.place}, {original.logits!r} is "
            f"{list(values.shape)} for {len(pixels)} inputs: name another with --logits"
        )
    return values


def _require_scores(original: Original, values: Pixels, declared: Scores | None) -> Scores:
    return require_scores(values, declared, original.place, _alternative(original, None))


def _alternative(original: Original, before: str | None) -> str:
    if original.place.suffix == ".pt2":
        return "a program that returns its logits, without softmax"
    return f"--logits {before}" if before else "--logits the value in front of the softmax"
