"""Refuses models that are no classifiers by what they are: detectors, regressions and the like.

A gate answers an input with one class and one confidence. No setting makes one of these, so the
messages name none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import onnx

from export.errors import GraphError
from export.sources.heads import walk_back

_SUPPRESSING: Final = ("NonMaxSuppression", "EfficientNMS", "BatchedNMS")
_BOXES: Final = frozenset(
    {"boxes", "bboxes", "dets", "num_detections", "num_dets", "detection_boxes", "pred_boxes"}
)
_REGRESSORS: Final = frozenset({"LinearRegressor", "SVMRegressor", "TreeEnsembleRegressor"})
_VARIABLE: Final = "variable"  # the producers' name of what a regression predicts
_PRODUCERS: Final = frozenset({"skl2onnx", "onnxmltools"})
_CLASSES: Final = frozenset({"tensor(int64)", "tensor(string)", "tensor(bool)"})
_SQUASHING: Final = frozenset({"Sigmoid", "Softmax"})
_COLUMNS: Final = 2
_SHORT: Final = 20
_ROWS_OF_ANSWERS: Final = 3
_MAPS: Final = 4


def refuse_detector(graph: onnx.GraphProto, place: Path) -> None:
    """Raise a `GraphError` for a model that finds objects in a picture."""
    names = [output.name for output in graph.output]
    suppresses = any(node.op_type.startswith(_SUPPRESSING) for node in graph.node)
    if suppresses or _BOXES & {name.lower() for name in names}:
        raise GraphError(
            f"expected a classifier in {place}, it detects objects (outputs {', '.join(names)}): "
            "a gate answers an input with one class; run the detector in your own code, and gate a "
            "classifier of what it cuts out"
        )


def refuse_regression(model: onnx.ModelProto, name: str, place: Path) -> None:
    """Raise a `GraphError` for a value that is a predicted number."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    node = walk_back(made_by, name)
    operator = "" if node is None else node.op_type
    is_number = operator in _REGRESSORS
    is_variable = name == _VARIABLE and model.producer_name.lower() in _PRODUCERS
    if is_number or (is_variable and operator not in _SQUASHING):
        made = f"{operator} gives {name!r}" if is_number else f"it gives {name!r}"
        raise GraphError(
            f"expected a classifier in {place}, it is a regression ({made}, a number): a gate "
            "needs the probabilities of classes; train a classifier of the ranges that matter"
        )


def refuse_many_answers(outputs: Sequence[Any], place: Path) -> None:
    """Raise a `GraphError` for a model whose every output has several answers an input."""
    for output in outputs:
        kind, shape = output.type, list(output.shape or ())
        if (
            kind in _CLASSES
            and len(shape) == _COLUMNS
            and isinstance(shape[1], int)
            and shape[1] > 1
        ):
            raise several_labels(
                place, f"its output {output.name} {_axes(shape)} names several classes"
            )
    for rank, what in ((_MAPS, "a map of each class"), (_ROWS_OF_ANSWERS, "rows of answers")):
        found = next((o for o in outputs if "float" in o.type and len(o.shape or ()) == rank), None)
        if found is not None:
            models = "a segmentation" if rank == _MAPS else "a detector or a model of tokens"
            output = f"{found.name} {_axes(found.shape)}"
            raise GraphError(
                f"expected a classifier in {place}, its output {output} is {what} ({models}): a "
                "gate answers an input with one class; export a model of [batch, classes], or name "
                "such a value inside the graph with --logits"
            )


def _axes(shape: Sequence[Any]) -> str:
    """Return a shape for a message; some exporters name an axis by a whole formula."""
    return f"[{', '.join(str(a) if len(str(a)) <= _SHORT else '?' for a in shape)}]"


def several_labels(place: Path, what: str) -> GraphError:
    """Return the error of a model that gives each label a probability by itself."""
    return GraphError(
        f"expected one right class an input in {place}, {what}, as models of several labels have: "
        "a gate answers with one class and one confidence; export one bundle for each label, of a "
        "model whose output is the column of that label, [batch, 1]"
    )
