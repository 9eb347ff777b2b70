"""One model of a Triton model repository.

    MODEL/config.pbtxt    its inputs and outputs
    MODEL/labels.txt      class names, one per line, if they are known
    MODEL/1/model.onnx    the graph, with the weight files that it names next to it

The message of `config.pbtxt` is a part of Triton's `model_config.proto`, with its names and field
numbers, in a descriptor pool of its own: the classes of tritonclient would clash there, and a
server need not install a client.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from cloud_stub.deploy.model import GRAPH_FILE, DeployedModel, TensorDescription, is_scores

CONFIG_FILE: Final = "config.pbtxt"
LABELS_FILE: Final = "labels.txt"
VERSION: Final = "1"
_PACKAGE: Final = "inference"
_DATA_TYPES: Final = {
    "BOOL": 1,
    "UINT8": 2,
    "UINT16": 3,
    "UINT32": 4,
    "UINT64": 5,
    "INT8": 6,
    "INT16": 7,
    "INT32": 8,
    "INT64": 9,
    "FP16": 10,
    "FP32": 11,
    "FP64": 12,
    "STRING": 13,
}
# Message -> field -> (number, type, whether it is repeated). A type that is not a scalar is a
# message or the enumeration.
_MESSAGES: Final[dict[str, dict[str, tuple[int, str, bool]]]] = {
    "ModelTensorReshape": {"shape": (1, "int64", True)},
    "ModelInput": {
        "name": (1, "string", False),
        "data_type": (2, "DataType", False),
        "dims": (4, "int64", True),
    },
    "ModelOutput": {
        "name": (1, "string", False),
        "data_type": (2, "DataType", False),
        "dims": (3, "int64", True),
        "reshape": (5, "ModelTensorReshape", False),
        "label_filename": (4, "string", False),
    },
    "ModelDynamicBatching": {},
    "ModelConfig": {
        "name": (1, "string", False),
        "backend": (17, "string", False),
        "max_batch_size": (4, "int32", False),
        "input": (5, "ModelInput", True),
        "output": (6, "ModelOutput", True),
        "dynamic_batching": (11, "ModelDynamicBatching", False),
    },
}
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "string": _Field.TYPE_STRING,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
}


def describe(model: DeployedModel, name: str, max_batch: int) -> str:
    """Return the text of `config.pbtxt`.

    Args:
        model: The model.
        name: Its name, also that of its folder.
        max_batch: Most rows of one run, if the graph leaves their number free.
    """
    config = _CONFIG(name=name, backend="onnxruntime")
    if model.has_rows:
        config.max_batch_size = max_batch
        config.dynamic_batching.SetInParent()  # its defaults: no delay, all waiting calls
    for tensor in model.graph.inputs:
        _fill(config.input.add(), tensor, model.has_rows)
    for output in model.outputs:
        described = config.output.add()
        _fill(described, output, model.has_rows)
        if model.has_rows and len(output.shape) == 1:
            # Besides the rows no axis is left, and Triton allows an empty shape only here.
            described.reshape.SetInParent()
        if model.labels and is_scores(output):
            described.label_filename = LABELS_FILE
    return text_format.MessageToString(config, as_utf8=True)


def _fill(described: Any, tensor: TensorDescription, has_rows: bool) -> None:
    described.name = tensor.name
    # The protocol's BYTES is called a string in the configuration.
    described.data_type = _DATA_TYPES[tensor.datatype.replace("BYTES", "STRING")]
    axes = tensor.shape[1:] if has_rows else tensor.shape
    described.dims.extend([-1 if size is None else size for size in axes] or [1])


def _build() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="model_config.proto", package=_PACKAGE, syntax="proto3"
    )
    types = file.enum_type.add(name="DataType")
    types.value.add(name="TYPE_INVALID", number=0)
    for name, number in _DATA_TYPES.items():
        types.value.add(name=f"TYPE_{name}", number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, is_repeated) in fields.items():
            _add_field(message, field, number, kind, is_repeated)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    config = pool.FindMessageTypeByName(f"{_PACKAGE}.ModelConfig")
    return message_factory.GetMessageClass(config)


def _add_field(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str, is_repeated: bool
) -> None:
    label = _Field.LABEL_REPEATED if is_repeated else _Field.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label)
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_MESSAGE if kind in _MESSAGES else _Field.TYPE_ENUM
        field.type_name = f".{_PACKAGE}.{kind}"


_CONFIG: Final = _build()


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
