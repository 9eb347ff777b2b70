"""A classifier made by other tools as a source; the part that programs and ONNX files share."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import torch

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
    merge_opsets,
    opset_of,
    raise_opset,
    rename_reserved,
    shape_of,
    strip_traces,
)
from export.sources.batch import free_batch, require_agreement
from export.sources.columns import merge_columns
from export.sources.heads import Head, are_numbers
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
from export.sources.refusals import several_labels
from export.sources.scores import append_logits, as_logits, require_scores
from export.sources.source import (
    COLUMNS,
    HEAD,
    ROWS_AT_ONCE,
    Feeds,
    Inputs,
    Pictures,
    Source,
)
from train import data
from train.models import VIEWS

_Content = TypeVar("_Content")
_RANK = 2
_PROBE_SEED = 0
_ONE_NUMBER = "; a model that predicts a number is a regression, which has no place in a cascade"


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
        head: What its graph says of the output.
    """

    place: Path
    file: OnnxFile
    logits: str
    element: int
    run: Callable[[Pixels], Pixels]
    runs_in: str
    tolerance: float = TOLERANCE
    head: Head | None = None

    def scores_of(self, declared: Scores | None) -> tuple[Scores | None, str]:
        """Return what the user or else the graph says of the output, and who says it."""
        if declared is not None or self.head is None or self.head.scores is None:
            return declared, "as --scores says"
        return self.head.scores, f"as it {self.head.reason}"


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
    model = copy_model(original.file.model)
    drop_weights_from_inputs(model.graph)
    merge_opsets(model)
    model = _at_least_opset(model, original)
    columns = merge_columns(model, original.place)
    described = describe_input(model.graph, original.place)
    processor = settings.processor and open_processor(settings.processor, described)
    if settings.scores is None:
        _refuse_squashed(original)
    probes = synthetic_pixels(described, processor, _PROBE_SEED)
    values = _run_probes(original, probes)
    _refuse_several_labels(original, values.shape[1])
    scores = _require_scores(original, values, settings.scores)
    classes = max(values.shape[1], 2)  # a single one tells two classes apart
    labels = _labels(settings, classes, original)
    strip_traces(model)
    gated = append_logits(model, original.logits, original.element, scores, values.shape[1])
    batch = shape_of(model.graph.input[0])[0]
    keep_output(model.graph, *gated, classes, batch=batch)
    free = _settle(model, original, probes, as_logits(values, scores))
    rename_reserved(model.graph)
    name = model.graph.input[0].name
    notes = _notes(original, settings.scores, scores, columns, values.shape[1])
    return ForeignSource(
        place=original.place,
        runs_in=original.runs_in,
        labels=labels,
        input=InputDescription(name=name, dtype=described.dtype, shape=described.shape),
        processor=processor,
        image_size=size_of(described, processor) if processor else None,
        notes=notes if free else notes | {ROWS_AT_ONCE: 1},
        original=original,
        declared=settings.scores,
        scores=scores,
        prepared=model,
    )


def _at_least_opset(model: onnx.ModelProto, original: Original) -> onnx.ModelProto:
    """Return the model with operators that the gate can stand behind.

    Raises:
        GraphError: It names no version, or an operator cannot be converted.
    """
    opset = opset_of(model)
    if opset >= LEAST_OPSET:
        return model
    if not opset or original.file.weights is not None:
        raise GraphError(
            f"expected opset {LEAST_OPSET} or newer in {original.place}, got {opset or 'none'}: "
            "export it with a newer one, or convert it with onnx.version_converter"
        )
    return raise_opset(model, LEAST_OPSET, why="the gate", instead="")


def _settle(model: onnx.ModelProto, original: Original, rows: Pixels, logits: Pixels) -> bool:
    """Free a fixed batch where possible, and hold what was converted to the original.

    Returns:
        Whether the model takes several rows at once.

    Raises:
        GraphError: The converted model gives other values.
    """
    weights = original.file.weights
    is_single = isinstance(shape_of(model.graph.input[0])[0], int)
    if is_single and free_batch(model, weights, rows, logits):
        return True
    before = original.file.model
    if opset_of(before) < LEAST_OPSET or len(before.graph.input) > 1:
        require_agreement(model, weights, rows, logits, place=original.place)
    return not is_single


def _notes(
    original: Original,
    declared: Scores | None,
    scores: Scores,
    columns: tuple[str, ...],
    number: int,
) -> dict[str, Any]:
    """Return what the metadata say of the model, and print what the user did not say."""
    notes: dict[str, Any] = {COLUMNS: list(columns)} if columns else {}
    head = original.head
    reason = head.reason if head is not None and declared is None else ""
    if not reason and number == 1:
        reason = "has one column, of the second of two classes"
    if not reason:
        return notes
    print(f"{original.place}: the model {reason}; its {original.logits!r} are {scores}", flush=True)
    return notes | {HEAD: f"{scores}; the model {reason}"}


def _labels(settings: SourceSettings, classes: int, original: Original) -> tuple[str, ...]:
    place, named = original.place, original.head.labels if original.head else None
    if settings.labels is not None:
        owner: object = settings.labels
        labels = read_labels(settings.labels)
    elif named is not None and (settings.calibrate is None or not are_numbers(named)):
        owner, labels = place, named
    elif settings.calibrate is not None:
        owner = settings.calibrate
        labels = tuple(data.load(settings.calibrate).label_names)
    else:
        raise LabelError(
            f"expected --labels FILE for {place}, got none: it does not name its {classes} "
            "classes, and there are no calibration data that do"
        )
    if len(labels) != classes:
        is_number = classes == _RANK and len(labels) != _RANK
        raise LabelError(
            f"expected {classes} labels, one for each class of {place}, got {len(labels)} in "
            f"{owner}: name others with --labels{_ONE_NUMBER if is_number else ''}"
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


def _refuse_squashed(original: Original) -> None:
    """Raise `GraphError` if the named value is classes, or scores of each class by itself."""
    squashing = find_squashing(original.file.model.graph, original.logits)
    if squashing is not None and (original.head is None or original.head.scores is None):
        operator, before = squashing
        if operator == "Sigmoid":
            raise several_labels(original.place, "its output is a Sigmoid of each class by itself")
        raise GraphError(
            f"expected logits in {original.place}, {original.logits!r} is what {operator} makes of "
            f"{before!r}: give {_alternative(original, before)}"
        )


def _refuse_several_labels(original: Original, columns: int) -> None:
    """Raise `GraphError` where the graph names another number of classes than it has columns."""
    named = original.head.labels if original.head else None
    if named is not None and len(named) != max(columns, 2):
        raise several_labels(
            original.place, f"it has {columns} columns and the labels {', '.join(named[:5])}"
        )


def _run_probes(original: Original, pixels: Pixels) -> Pixels:
    """Return the original's values [n, columns] for synthetic inputs.

    Raises:
        GraphError: They have another shape.
    """
    values = original.run(pixels)
    if values.ndim != _RANK and original.head is not None and original.head.scores:
        raise several_labels(original.place, f"its output is {list(values.shape)}")
    if values.ndim != _RANK or len(values) != len(pixels):
        raise GraphError(
            f"expected logits [batch, classes] in {original.place}, {original.logits!r} is "
            f"{list(values.shape)} for {len(pixels)} inputs: name another with --logits"
        )
    return values


def _require_scores(original: Original, values: Pixels, declared: Scores | None) -> Scores:
    said, who = original.scores_of(declared)
    instead = _alternative(original, None)
    return require_scores(values, said, original.place, instead, because=who)


def _alternative(original: Original, before: str | None) -> str:
    if original.place.suffix == ".pt2":
        return "a program that returns its logits, without softmax"
    return f"--logits {before}" if before else "--logits the value in front of the softmax"
