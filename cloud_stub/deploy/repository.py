"""Writes one model of a Triton model repository.

MODEL/config.pbtxt    what it takes and gives
MODEL/labels.txt      class names, one a line, where they are known
MODEL/1/model.onnx    the graph; files of weights that it names lie beside it
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from cloud_stub.deploy.graph import GRAPH_FILE
from cloud_stub.deploy.model import DeployedModel
from cloud_stub.deploy.model_config import LABELS_FILE, describe

CONFIG_FILE: Final = "config.pbtxt"
VERSION: Final = "1"


def write_model(folder: Path, model: DeployedModel, name: str, max_batch: int) -> None:
    """Write a model's folder, which must be there and empty.

    Args:
        folder: The folder.
        model: What is served.
        name: Its name on the wire.
        max_batch: Most rows of one run.
    """
    graph = model.graph
    version = folder / VERSION
    version.mkdir()
    shutil.copyfile(graph.path, version / GRAPH_FILE)
    for file in graph.external:
        (version / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(graph.path.parent / file, version / file)
    if model.labels:
        text = "".join(f"{label}\n" for label in model.labels)
        (folder / LABELS_FILE).write_text(text, encoding="utf-8")
    (folder / CONFIG_FILE).write_text(describe(model, name, max_batch), encoding="utf-8")
