"""Runs an exported graph in ONNX Runtime, to calibrate and verify what ships."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from edge_runtime import contract
from export.errors import GraphError
from export.graphs import serialized

_BATCH = 128
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


def run_images(
    session: Any, images: Sequence[npt.NDArray[np.uint8]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return prediction, confidence and defer [n]; neighbours of one size share a batch.

    Raises:
        GraphError: The graph takes no such pictures.
    """
    name = session.get_inputs()[0].name
    parts = [_run(session, {name: np.stack(group)}) for group in _groups(images)]
    prediction, confidence, defer = (np.concatenate(column) for column in zip(*parts, strict=True))
    return prediction, confidence, defer


def _run(session: Any, feeds: dict[str, npt.NDArray[Any]]) -> Any:
    try:
        return session.run(contract.GATE_OUTPUTS, feeds)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
        (name, batch), wanted = next(iter(feeds.items())), session.get_inputs()[0]
        reason = " ".join(str(error).split())[:200]
        raise GraphError(
            f"expected data that fit the graph's {name} {wanted.type} {wanted.shape}, got "
            f"{batch.dtype} {list(batch.shape)} ({reason}): use data of that size"
        ) from None


def _groups(
    images: Sequence[npt.NDArray[np.uint8]],
) -> Iterator[list[npt.NDArray[np.uint8]]]:
    group: list[npt.NDArray[np.uint8]] = []
    for index in range(len(images)):
        image = images[index]
        if group and (len(group) == _BATCH or image.shape != group[0].shape):
            yield group
            group = []
        group.append(image)
    if group:
        yield group
