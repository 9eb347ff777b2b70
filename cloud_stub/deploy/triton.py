"""One model of a Triton model repository.

MODEL/config.pbtxt    its inputs and outputs: Triton's `ModelConfig` in protobuf's text format
MODEL/labels.txt      class names, one per line, if they are known
MODEL/1/model.onnx    the graph, with the weight files that it names next to it
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from google.protobuf.text_encoding import CEscape

from cloud_stub.deploy.model import GRAPH_FILE, DeployedModel, TensorDescription, is_scores

CONFIG_FILE: Final = "config.pbtxt"
LABELS_FILE: Final = "labels.txt"
VERSION: Final = "1"


def describe(model: DeployedModel, name: str, max_batch: int) -> str:
    """Return the text of `config.pbtxt`.

    Args:
        model: The model.
        name: Its name, also that of its folder.
        max_batch: Most rows of one run, if the graph leaves their number free.
    """
    lines = [f"name: {_quote(name)}", 'backend: "onnxruntime"']
    if model.has_rows:
        lines.append(f"max_batch_size: {max_batch}")
        lines.append("dynamic_batching {}")  # its defaults: no delay, all waiting calls
    for tensor in model.graph.inputs:
        lines += ["input {", *_tensor_lines(tensor, model.has_rows), "}"]
    for output in model.outputs:
        lines += ["output {", *_tensor_lines(output, model.has_rows)]
        if model.has_rows and len(output.shape) == 1:
            # Besides the rows no axis is left, and Triton allows an empty shape only here.
            lines.append("  reshape {}")
        if model.labels and is_scores(output):
            lines.append(f'  label_filename: "{LABELS_FILE}"')
        lines.append("}")
    return "".join(f"{line}\n" for line in lines)


def _tensor_lines(tensor: TensorDescription, has_rows: bool) -> Iterator[str]:
    yield f"  name: {_quote(tensor.name)}"
    # The protocol's BYTES is called a string in the configuration.
    yield f"  data_type: TYPE_{tensor.datatype.replace('BYTES', 'STRING')}"
    axes = tensor.shape[1:] if has_rows else tensor.shape
    for size in axes or [1]:
        yield f"  dims: {-1 if size is None else size}"


def _quote(text: str) -> str:
    return f'"{CEscape(text.encode(), as_utf8=True)}"'


def write_model(folder: Path, model: DeployedModel, name: str, max_batch: int) -> None:
    """Write a model into a folder.

    Args:
        folder: An empty folder.
        model: The model.
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


def scratch_place(folder: Path) -> Path:
    """Return a place to write first: next to the repository, if a folder can be moved from there.

    An engine takes every folder in its repository for a model, so one that a kill left behind in
    there would keep it from starting.
    """
    repository = folder.absolute().parent
    repository.mkdir(parents=True, exist_ok=True)
    parent = repository.parent
    is_same = parent.stat().st_dev == repository.stat().st_dev
    return parent if is_same and os.access(parent, os.W_OK | os.X_OK) else repository
