"""The model that is deployed: its graph, its labels, and which outputs a cascade reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloud_stub.backends.graph import DATATYPES
from cloud_stub.errors import DeployError

# MERGEDOC cloud_stub/deploy/graph.py: 'What an ONNX file takes, gives and needs beside it, as an engine will see it.'
from edge_runtime import contract
from edge_runtime.bundle import read_bundle
from edge_runtime.errors import BundleError, DependencyError
from edge_runtime.onnx_file import read_onnx_file

_FLOATS: Final = {"FP16", "FP32", "FP64"}
_NAMES: Final = {"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BYTES"}
_SCORES: Final = (contract.PROBABILITIES, contract.LOGITS)
_MATRIX: Final = 2

GRAPH_FILE: Final = "model.onnx"
"""What Triton's ONNX Runtime backend looks for in a version's folder."""
_NAMELESS: Final = "unk__"  # how ONNX Runtime calls an axis that has no name


@dataclass(frozen=True, kw_only=True)
class DeployedModel:
    """A graph as an engine is to serve it.

    Attributes:
        graph: The ONNX file.
        labels: Class names in the order of the graph's classes; empty where nobody said them.
        answer: The output that holds class indices, class names or scores.
        outputs: What the engine gives: the answer, and the confidence where there is one.
    """

    graph: Graph
    labels: tuple[str, ...]
    answer: TensorDescription
    outputs: tuple[TensorDescription, ...]

    @property
    def has_rows(self) -> bool:
        """Whether an engine may put requests together along the first axis.

        An input of one axis has none left beside the rows, and an engine knows no empty shape.
        """
        tensors = (*self.graph.inputs, *self.outputs)
        # Axes of two names, words and sentences for example, are not the rows of one batch.
        is_one = len({tensor.rows for tensor in tensors} - {None}) <= 1
        has_more = all(len(given.shape) > 1 for given in self.graph.inputs)
        return is_one and has_more and all(tensor.has_free_rows for tensor in tensors)


def is_scores(output: TensorDescription) -> bool:
    """Tell whether an output can hold scores [rows, classes]."""
    return output.datatype in _FLOATS and len(output.shape) == _MATRIX


def read_bundle_model(folder: Path) -> DeployedModel:
    """Read the classifier of a bundle.

    Raises:
        GatekeeperError: The bundle is damaged, or its graph cannot be opened.
    """
    bundle = read_bundle(folder)
    graph = read_graph(bundle.graph)
    found = {output.name: output for output in graph.outputs}
    if contract.PREDICTION not in found:
        raise DeployError(
            f"expected an output {contract.PREDICTION!r} of {bundle.graph}, got "
            f"{', '.join(found)}: export the bundle again"
        )
    # Whether a large model would itself defer is of no use to the device that asks it.
    names = (contract.PREDICTION, contract.CONFIDENCE, *_SCORES)
    outputs = tuple(found[name] for name in names if name in found)
    labels = checked_labels(bundle.metadata.labels)
    return _checked(graph, labels, found[contract.PREDICTION], outputs)


def read_onnx_model(
    file: Path, labels: tuple[str, ...] = (), answer: str | None = None
) -> DeployedModel:
    """Read any ONNX file.

    Args:
        file: The file; weights that it names lie beside it.
        labels: Class names in its order.
        answer: The output that holds the answer; found by type and shape where None.

    Raises:
        DeployError: No output, or more than one, can be the answer; or the labels do not fit it.
    """
    graph = read_graph(file)
    chosen = _choose(graph, labels) if answer is None else _named(graph, labels, answer)
    confidence = [o for o in graph.outputs if o.name == contract.CONFIDENCE and len(o.shape) == 1]
    return _checked(graph, labels, chosen, (chosen, *(o for o in confidence if o != chosen)))


def checked_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return class names that a file of one a line can hold, each once.

    Raises:
        DeployError: One is empty, came twice or holds a line break.
    """
    for label in labels:
        if label.splitlines() != [label]:
            raise DeployError(
                f"expected each label on one line of its own, got {label[:40]!r}: rename it"
            )
    if len(set(labels)) != len(labels):
        twice, _ = Counter(labels).most_common(1)[0]
        raise DeployError(f"expected each label once, {twice[:40]!r} came twice: rename one")
    return labels


def _choose(graph: Graph, labels: tuple[str, ...]) -> TensorDescription:
    fitting = [o for o in graph.outputs if _unfit(o, labels) is None]
    scores = [output for output in fitting if is_scores(output)]
    for candidates in (scores, fitting):  # scores first: they need no further layer of a graph
        if len(candidates) == 1:
            return candidates[0]
    outputs = "; ".join(map(str, graph.outputs))
    asked = f"scores [rows, {len(labels) or 'classes'}], or class indices or names [rows]"
    raise DeployError(
        f"expected one output with {asked}, {graph.path} has {len(fitting)} among {outputs}: "
        "name it with --answer"
    )


def _named(graph: Graph, labels: tuple[str, ...], name: str) -> TensorDescription:
    found = next((output for output in graph.outputs if output.name == name), None)
    if found is None:
        names = ", ".join(output.name for output in graph.outputs)
        raise DeployError(f"expected an output {name!r}, {graph.path} gives {names}: name another")
    reason = _unfit(found, labels)
    if reason is not None:
        raise DeployError(f"expected {reason} in {name!r}, got {found}: name another output")
    return found


def _unfit(output: TensorDescription, labels: tuple[str, ...]) -> str | None:
    """Return what was expected of an output that cannot be the answer, None where it can be."""
    if is_scores(output):
        classes = output.shape[1]
        if labels and classes not in {None, len(labels)}:
            return f"scores of {len(labels)} classes, as there are labels,"
        return None
    if output.datatype in _NAMES and (len(output.shape) == 1 or output.shape[1:] == (1,)):
        return None
    return "scores [rows, classes] as floats, or class indices or names [rows],"


def _checked(
    graph: Graph,
    labels: tuple[str, ...],
    answer: TensorDescription,
    outputs: tuple[TensorDescription, ...],
) -> DeployedModel:
    for tensor in (*graph.inputs, *outputs):
        if tensor.datatype == "BF16" or "(" in tensor.datatype:
            raise DeployError(
                f"expected types that the engine's ONNX Runtime backend knows, {graph.path} has "
                f"{tensor}: cast it in the graph"
            )
    if not graph.inputs:
        raise DeployError(f"expected an input, {graph.path} takes none: export it again")
    return DeployedModel(graph=graph, labels=labels, answer=answer, outputs=outputs)


@dataclass(frozen=True, kw_only=True)
class TensorDescription:
    """An input or output of a graph.

    Attributes:
        name: Its name.
        datatype: The protocol's name of its type, or ONNX Runtime's where the protocol has none.
        shape: Size of each axis; None is free.
        rows: What the graph calls its first axis, where that is free and has a name.
    """

    name: str
    datatype: str
    shape: tuple[int | None, ...]
    rows: str | None = None

    @property
    def has_free_rows(self) -> bool:
        """Whether the first axis takes any number of rows."""
        return bool(self.shape) and self.shape[0] is None

    def __str__(self) -> str:
        sizes = ", ".join("-1" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.datatype} [{sizes}]"


@dataclass(frozen=True, kw_only=True)
class Graph:
    """An ONNX file.

    Attributes:
        path: The file.
        external: Files of weights that it names, relative to its folder.
        inputs: What must be fed; an initializer that may be fed is none of them.
        outputs: What it gives.
    """

    path: Path
    external: tuple[str, ...]
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]


def read_graph(path: Path) -> Graph:
    """Open an ONNX file and describe it.

    Raises:
        DeployError: It is missing or no ONNX graph, or weights it names are not beside it.
        DependencyError: ONNX Runtime is not installed.
    """
    if not path.is_file():
        raise DeployError(f"expected an ONNX file at {path}, found none: name the model's file")
    try:
        external = read_onnx_file(path).external
    except BundleError:
        raise DeployError(
            f"expected an ONNX file at {path}, got other bytes: export or copy it again"
        ) from None
    # Before ONNX Runtime opens what a file from elsewhere names.
    for name in external:
        _check_external(path, name)
    session = _open(path)
    return Graph(
        path=path,
        external=external,
        inputs=_describe(session.get_inputs()),
        outputs=_describe(session.get_outputs()),
    )


def _check_external(path: Path, name: str) -> None:
    folder = path.parent.resolve()
    if "\0" in name or not (folder / name).resolve().is_relative_to(folder):
        raise DeployError(
            f"expected the weights of {path} beside it, it takes them from {name!r}: refused, save "
            "the model with its weights in one folder"
        )
    if not (folder / name).is_file():
        raise DeployError(
            f"expected the weights {name!r} beside {path}, found none: copy them there too"
        )
    if Path(name) == Path(GRAPH_FILE):
        raise DeployError(
            f"expected another name than {GRAPH_FILE} for the weights of {path}, the graph itself "
            "is called so in a repository: save the model with other names"
        )


def _open(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise DependencyError("onnxruntime", "reading an ONNX file", "cpu") from None
    options = onnxruntime.SessionOptions()
    # Nothing is run, so nothing needs to be made fast.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime has a class for every failure
        raise DeployError(f"{path} cannot be opened: {error}: export it again") from None


def _describe(arguments: Iterable[Any]) -> tuple[TensorDescription, ...]:
    return tuple(
        _description(argument.name, argument.type, argument.shape) for argument in arguments
    )


def _description(name: str, kind: str, axes: list[int | str | None] | None) -> TensorDescription:
    axes = axes or []  # what is no tensor has none
    first = axes[0] if axes else None
    return TensorDescription(
        name=name,
        datatype=DATATYPES.get(kind, kind),
        shape=tuple(size if isinstance(size, int) else None for size in axes),
        rows=first if isinstance(first, str) and not first.startswith(_NAMELESS) else None,
    )
