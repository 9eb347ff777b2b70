"""What an ONNX file takes, gives and needs beside it, as an engine will see it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloud_stub.backends.graph import DATATYPES
from cloud_stub.deploy.errors import DeployError
from edge_runtime.errors import BundleError, DependencyError
from edge_runtime.onnx_file import read_onnx_file

GRAPH_FILE: Final = "model.onnx"
"""What Triton's ONNX Runtime backend looks for in a version's folder."""

_NAMELESS: Final = "unk__"  # how ONNX Runtime calls an axis that has no name


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
