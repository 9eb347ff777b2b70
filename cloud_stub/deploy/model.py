"""The model that is deployed: its graph, its labels, and the outputs that a cascade reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloud_stub.backends.graph import DATATYPES, open_session
from cloud_stub.errors import DeployError
from edge_runtime import contract
from edge_runtime.bundle import read_bundle
from edge_runtime.errors import BundleError
from edge_runtime.onnx_file import read_onnx_file, require_beside

GRAPH_FILE: Final = "model.onnx"
"""Name of the graph that Triton's ONNX Runtime backend expects in a version's folder."""
_FLOATS: Final = {"FP16", "FP32", "FP64"}
_NAMES: Final = {"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BYTES"}
_SCORES: Final = (contract.PROBABILITIES, contract.LOGITS)
_MATRIX: Final = 2
_NAMELESS: Final = "unk__"  # ONNX Runtime's prefix for an axis without a name


@dataclass(frozen=True, kw_only=True)
class TensorDescription:
    """An input or output of a graph.

    Attributes:
        name: Its name.
        datatype: The protocol's name of its type, or ONNX Runtime's if the protocol has none.
        shape: Size of each axis; None is free.
        rows: The graph's name of its first axis, if that is free and has a name.
    """

    name: str
    datatype: str
    shape: tuple[int | None, ...]
    rows: str | None = None

    @property
    def has_free_rows(self) -> bool:
        """True if the first axis takes any number of rows."""
        return bool(self.shape) and self.shape[0] is None

    def __str__(self) -> str:
        sizes = ", ".join("-1" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.datatype} [{sizes}]"


@dataclass(frozen=True, kw_only=True)
class Graph:
    """An ONNX file.

    Attributes:
        path: The file.
        external: Weight files that it names, relative to its folder.
        inputs: The inputs that must be fed, without initializers that may be fed.
        outputs: The outputs.
    """

    path: Path
    external: tuple[str, ...]
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]


@dataclass(frozen=True, kw_only=True)
class DeployedModel:
    """A graph as an engine is to serve it.

    Attributes:
        graph: The ONNX file.
        labels: Class names in the order of the graph's classes; empty if they are unknown.
        answer: The output that holds class indices, class names or scores.
        outputs: The outputs to serve: the answer, and the confidence if there is one.
    """

    graph: Graph
    labels: tuple[str, ...]
    answer: TensorDescription
    outputs: tuple[TensorDescription, ...]

    @property
    def has_rows(self) -> bool:
        """True if an engine may combine requests along the first axis.

        An input of one axis has none left besides the rows, and an engine knows no empty shape.
        """
        tensors = (*self.graph.inputs, *self.outputs)
        # Axes of different names, words and sentences for example, are not rows of one batch.
        is_one = len({tensor.rows for tensor in tensors} - {None}) <= 1
        has_more = all(len(tensor.shape) > 1 for tensor in self.graph.inputs)
        return is_one and has_more and all(tensor.has_free_rows for tensor in tensors)


def is_scores(output: TensorDescription) -> bool:
    """Return whether an output can hold scores [rows, classes]."""
    return output.datatype in _FLOATS and len(output.shape) == _MATRIX


def read_bundle_model(folder: Path) -> DeployedModel:
    """Read the classifier of a bundle.

    Raises:
        GatekeeperError: The bundle is damaged, or its graph cannot be opened.
    """
    bundle = read_bundle(folder)
    graph = _read_graph(bundle.graph)
    by_name = {output.name: output for output in graph.outputs}
    if contract.PREDICTION not in by_name:
        raise DeployError(
            f"expected an output {contract.PREDICTION!r} of {bundle.graph}, got "
            f"{', '.join(by_name)}: export the bundle again"
        )
    # The device has no use for the large model's own decision to defer.
    names = (contract.PREDICTION, contract.CONFIDENCE, *_SCORES)
    outputs = tuple(by_name[name] for name in names if name in by_name)
    labels = check_labels(bundle.metadata.labels)
    return _check(graph, labels, by_name[contract.PREDICTION], outputs)


def read_onnx_model(
    file: Path, labels: tuple[str, ...] = (), answer: str | None = None
) -> DeployedModel:
    """Read any ONNX file.

    Args:
        file: The file; weight files that it names are next to it.
        labels: Class names in its order.
        answer: Name of the output with the answer; None to find it by type and shape.

    Raises:
        DeployError: No output, or more than one, can be the answer; or the labels do not fit it.
    """
    graph = _read_graph(file)
    chosen = _choose(graph, labels) if answer is None else _find(graph, labels, answer)
    confidence = [o for o in graph.outputs if o.name == contract.CONFIDENCE and len(o.shape) == 1]
    return _check(graph, labels, chosen, (chosen, *(o for o in confidence if o != chosen)))


def check_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return class names after checking that a file can list them, one per line.

    Raises:
        DeployError: A name is empty, occurs twice or holds a line break.
    """
    for label in labels:
        if label.splitlines() != [label]:
            raise DeployError(
                f"expected each label on one line of its own, got {label[:40]!r}: rename it"
            )
    if len(set(labels)) != len(labels):
        twice, _ = Counter(labels).most_common(1)[0]
        raise DeployError(f"expected each label once, {twice[:40]!r} occurs twice: rename one")
    return labels


def _choose(graph: Graph, labels: tuple[str, ...]) -> TensorDescription:
    fitting = [o for o in graph.outputs if _requirement(o, labels) is None]
    scores = [output for output in fitting if is_scores(output)]
    for candidates in (scores, fitting):  # scores first: they need no further layer in a graph
        if len(candidates) == 1:
            return candidates[0]
    outputs = "; ".join(map(str, graph.outputs))
    raise DeployError(
        f"expected one output with scores [rows, {len(labels) or 'classes'}], or class indices or "
        f"names [rows], {graph.path} has {len(fitting)} among {outputs}: name it with --answer"
    )


def _find(graph: Graph, labels: tuple[str, ...], name: str) -> TensorDescription:
    output = next((output for output in graph.outputs if output.name == name), None)
    if output is None:
        names = ", ".join(output.name for output in graph.outputs)
        raise DeployError(f"expected an output {name!r}, {graph.path} has {names}: name another")
    expected = _requirement(output, labels)
    if expected is not None:
        raise DeployError(f"expected {expected} in {name!r}, got {output}: name another output")
    return output


def _requirement(output: TensorDescription, labels: tuple[str, ...]) -> str | None:
    """Return the requirement that an output does not meet; None if it can be the answer."""
    if is_scores(output):
        classes = output.shape[1]
        if classes == 1:
            return "scores of two classes, which a bundle of a model with a single logit has,"
        if labels and classes not in {None, len(labels)}:
            return f"scores of {len(labels)} classes, one per label,"
        return None
    if output.datatype in _NAMES and (len(output.shape) == 1 or output.shape[1:] == (1,)):
        return None
    return "scores [rows, classes] as floats, or class indices or names [rows],"


def _check(
    graph: Graph,
    labels: tuple[str, ...],
    answer: TensorDescription,
    outputs: tuple[TensorDescription, ...],
) -> DeployedModel:
    for tensor in (*graph.inputs, *outputs):
        if tensor.datatype == "BF16" or "(" in tensor.datatype:
            raise DeployError(
                f"expected types that the engine's ONNX Runtime backend supports, {graph.path} has "
                f"{tensor}: cast it in the graph"
            )
    if not graph.inputs:
        raise DeployError(f"expected an input, {graph.path} has none: export it again")
    return DeployedModel(graph=graph, labels=labels, answer=answer, outputs=outputs)


def _read_graph(path: Path) -> Graph:
    try:
        external = read_onnx_file(path, allow_loops=True).external  # the engine runs it
        # Before ONNX Runtime opens the files that a file of unknown origin names.
        require_beside(path, external)
    except BundleError as error:
        raise DeployError(str(error)) from None
    _require_names(path, external)
    try:
        session = open_session(path, will_run=False)
    except BundleError as error:
        raise DeployError(f"{error}: export it again") from None
    return Graph(
        path=path,
        external=external,
        inputs=tuple(map(_description, session.get_inputs())),
        outputs=tuple(map(_description, session.get_outputs())),
    )


def _require_names(path: Path, external: tuple[str, ...]) -> None:
    if any(Path(name) == Path(GRAPH_FILE) for name in external):
        raise DeployError(
            f"expected another name than {GRAPH_FILE} for the weights of {path}: in a repository "
            "the graph itself has that name, so save the weights under another"
        )


def _description(argument: Any) -> TensorDescription:
    axes = argument.shape or []  # a sequence or map has none
    first = axes[0] if axes else None
    return TensorDescription(
        name=argument.name,
        datatype=DATATYPES.get(argument.type, argument.type),
        shape=tuple(size if isinstance(size, int) else None for size in axes),
        rows=first if isinstance(first, str) and not first.startswith(_NAMELESS) else None,
    )
