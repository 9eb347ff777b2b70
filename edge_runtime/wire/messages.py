"""Message classes and call paths of the Open Inference Protocol.

The messages are built from the committed descriptor set in a pool of their own. Ordinary generated
code registers in the process-wide pool, where the same names from tritonclient clash; this module
and tritonclient can be imported together, in either order. The types stand in `messages.pyi`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FILE = descriptor_pb2.FileDescriptorSet.FromString(
    Path(__file__).with_name("descriptor.binpb").read_bytes()
).file[0]
_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_FILE)


def _message(name: str) -> Any:
    """Return the class of one top-level message."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_FILE.package}.{name}"))


SERVICE: Final = f"{_FILE.package}.{_FILE.service[0].name}"
"""Full name of the service."""
METHODS: Final = {method.name: f"/{SERVICE}/{method.name}" for method in _FILE.service[0].method}
"""Path of each call by its name, e.g. `/inference.GRPCInferenceService/ModelInfer`."""

ServerLiveRequest = _message("ServerLiveRequest")
ServerLiveResponse = _message("ServerLiveResponse")
ServerReadyRequest = _message("ServerReadyRequest")
ServerReadyResponse = _message("ServerReadyResponse")
ModelReadyRequest = _message("ModelReadyRequest")
ModelReadyResponse = _message("ModelReadyResponse")
ServerMetadataRequest = _message("ServerMetadataRequest")
ServerMetadataResponse = _message("ServerMetadataResponse")
ModelMetadataRequest = _message("ModelMetadataRequest")
ModelMetadataResponse = _message("ModelMetadataResponse")
ModelInferRequest = _message("ModelInferRequest")
ModelInferResponse = _message("ModelInferResponse")
InferParameter = _message("InferParameter")
InferTensorContents = _message("InferTensorContents")
