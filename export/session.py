"""Runs an exported graph in ONNX Runtime, to calibrate and verify what ships."""

from __future__ import annotations

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
from export.errors import GraphError
from export.graphs import serialized

Answers = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.bool_]]
"""Prediction, confidence and defer, each [n]."""
Feed = Callable[[Sequence[Any]], Mapping[str, npt.NDArray[Any]]]
_BATCH = 128
_TEXTS = 16  # attention grows with the square of the longest
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_SIGNATURE = re.compile(r"/\S+\.(h|cc):\d+ .*?\) ")  # where in ONNX Runtime's own source it failed
_ERROR_LEVEL = 3  # it warns of every initializer that may be fed, which is our threshold


def open_graph(
    model: onnx.ModelProto, weights: Path | None = None, *, place: object = "the exported model"
) -> Any:
    """Return a session over a graph that is still in memory.

    Args:
        model: The graph.
        weights: The folder of its external weights, where it has any.
        place: Where it comes from, for the message.

    Raises:
        GraphError: ONNX Runtime does not take it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _ERROR_LEVEL
    if weights is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(weights))
    content = serialized(model)
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
        reason = _SIGNATURE.sub("", " ".join(str(error).split()))[:250]
        raise GraphError(
            f"expected a graph that ONNX Runtime {ort.__version__} takes in {place}, it does not "
            f"({reason}): export it with operators, types and an opset that it knows"
        ) from None


def run_on(session: Any, given: Sequence[Any], feed: Feed) -> Answers:
    """Return prediction, confidence and defer [n]; neighbours of one size share a batch.

    Args:
        session: A gated graph.
        given: Pictures uint8 [height, width, 3] or texts.
        feed: Makes what the graph takes of some of them.

    Raises:
        GraphError: The graph does not take them.
    """
    return _joined(_run(session, feed(group)) for group in _groups(given))


def run_images(session: Any, images: Sequence[npt.NDArray[np.uint8]]) -> Answers:
    """Return what a graph that takes pictures as they are says of them; see `run_on`."""
    name = session.get_inputs()[0].name
    return run_on(session, images, lambda group: {name: np.stack(group)})


def run_bundle(model: EdgeModel, given: Sequence[Any], session: Any = None) -> Answers:
    """Return what a bundle says of pictures or texts; see `run_on`.

    Args:
        model: The opened bundle.
        given: What it takes.
        session: Another session over its graph, with another threshold or band.
    """
    if model.metadata.input.name != contract.TEXT:
        return run_images(session or model.session, given)
    reader = model.reader
    return run_on(session or model.session, given, lambda group: reader.feeds(reader.batch(group)))


def run_feeds(session: Any, feeds: Mapping[str, npt.NDArray[Any]]) -> Answers:
    """Return what a graph says of what it takes itself, some rows at a time."""
    count = len(next(iter(feeds.values())))
    size = _TEXTS if contract.INPUT_IDS in feeds else _BATCH
    return _joined(
        _run(session, {name: rows[i : i + size] for name, rows in feeds.items()})
        for i in range(0, count, size)
    )


def _joined(parts: Iterable[Sequence[Any]]) -> Answers:
    prediction, confidence, defer = (np.concatenate(column) for column in zip(*parts, strict=True))
    return prediction, confidence, defer


def _run(session: Any, feeds: Mapping[str, npt.NDArray[Any]]) -> Sequence[Any]:
    taken = {node.name: feeds[node.name] for node in session.get_inputs()}
    try:
        answers: Sequence[Any] = session.run(contract.GATE_OUTPUTS, taken)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
        (name, batch), wanted = next(iter(taken.items())), session.get_inputs()[0]
        reason = " ".join(str(error).split())[:200]
        raise GraphError(
            f"expected data that fit the graph's {name} {wanted.type} {wanted.shape}, got "
            f"{batch.dtype} {list(batch.shape)} ({reason}): use data of that size"
        ) from None
    return answers


def _groups(given: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield neighbours of one size; texts have none, and are cut and padded together."""
    group: list[Any] = []
    for index in range(len(given)):
        one = given[index]
        most = _TEXTS if isinstance(one, str) else _BATCH
        if group and (len(group) == most or _size(one) != _size(group[0])):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _size(given: Any) -> tuple[int, ...]:
    size: tuple[int, ...] = getattr(given, "shape", ())
    return size
