"""Runs an exported graph in ONNX Runtime, to calibrate and verify what ships."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from edge_runtime import contract
from edge_runtime.edge_model import EdgeModel
from edge_runtime.files import one_line
from edge_runtime.sessions import by_rows
from export.errors import GraphError
from export.graphs import serialize
from export.verification import Answers

Feed = Callable[[Sequence[Any]], Mapping[str, npt.NDArray[Any]]]
_BATCH = 128
_TEXTS = 16  # attention grows with the square of the longest text
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_SIGNATURE = re.compile(r"/\S+\.(h|cc):\d+ .*?\) ")  # the place in ONNX Runtime's own source
# It warns of every initializer that may be fed, such as the threshold, and prints what it raises.
_FATAL_LEVEL = 4


def open_graph(
    model: onnx.ModelProto, weights: Path | None = None, *, place: object = "the exported model"
) -> Any:
    """Return a session over a graph in memory, whose external weights lie in a folder.

    Raises:
        GraphError: ONNX Runtime does not take the graph that comes from `place`.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_LEVEL
    if weights is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(weights))
    content = serialize(model)
    try:
        return by_rows(ort.InferenceSession(content, options, providers=["CPUExecutionProvider"]))
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
        reason = _SIGNATURE.sub("", one_line(error))[:250]
        raise GraphError(
            f"expected a graph that ONNX Runtime {ort.__version__} takes in {place}, it does not "
            f"({reason}): export it with operators, types and an opset that it supports"
        ) from None


def run_on(session: Any, inputs: Sequence[Any], feed: Feed) -> Answers:
    """Return the answers of a gated graph; neighbours of one size share a batch.

    Args:
        session: The gated graph.
        inputs: Pictures uint8 [height, width, 3] or texts.
        feed: Function from some of them to the graph's inputs.

    Raises:
        GraphError: The graph does not take them.
    """
    return _join(_run(session, feed(group)) for group in _groups(inputs))


def run_images(session: Any, images: Sequence[npt.NDArray[np.uint8]]) -> Answers:
    """Return the answers of a graph that takes uint8 pictures directly."""
    name = session.get_inputs()[0].name
    return run_on(session, images, lambda group: {name: np.stack(group)})


def run_bundle(model: EdgeModel, inputs: Sequence[Any], session: Any = None) -> Answers:
    """Return the answers of a bundle; the session may be another one over its graph."""
    if model.metadata.input.name != contract.TEXT:
        return run_images(session or model.session, inputs)
    reader = model.reader
    return run_on(session or model.session, inputs, lambda group: reader.feeds(reader.batch(group)))


def run_feeds(session: Any, feeds: Mapping[str, npt.NDArray[Any]]) -> Answers:
    """Return the answers of a graph to its own inputs, a batch at a time."""
    count = len(next(iter(feeds.values())))
    size = _TEXTS if contract.INPUT_IDS in feeds else _BATCH
    return _join(
        _run(session, {name: rows[i : i + size] for name, rows in feeds.items()})
        for i in range(0, count, size)
    )


def _join(parts: Iterable[Sequence[Any]]) -> Answers:
    prediction, confidence, defer = (np.concatenate(column) for column in zip(*parts, strict=True))
    return prediction, confidence, defer


def _run(session: Any, feeds: Mapping[str, npt.NDArray[Any]]) -> Sequence[Any]:
    taken = {node.name: feeds[node.name] for node in session.get_inputs()}
    try:
        answers: Sequence[Any] = session.run(contract.GATE_OUTPUTS, taken)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
        (name, batch), wanted = next(iter(taken.items())), session.get_inputs()[0]
        raise GraphError(
            f"expected data that fit the graph's {name} {wanted.type} {wanted.shape}, got "
            f"{batch.dtype} {list(batch.shape)} ({one_line(error, 200)}): use data of that size"
        ) from None
    return answers


def _groups(inputs: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield neighbours of one size; texts have no size, they are truncated and padded together."""
    for size, same in itertools.groupby(inputs, key=lambda one: getattr(one, "shape", None)):
        most = _TEXTS if size is None else _BATCH
        while group := list(itertools.islice(same, most)):
            yield group
