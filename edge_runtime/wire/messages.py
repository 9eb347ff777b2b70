"""Message classes and call paths of the Open Inference Protocol.

The messages are built from the committed descriptor set in a private pool. Ordinary generated code
registers in the process-wide pool, where it would clash with tritonclient's names; this module and
tritonclient can be imported together, in either order. The types are in `messages.pyi`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

_FILE = descriptor_pb2.FileDescriptorSet.FromString(
    Path(__file__).with_name("descriptor.binpb").read_bytes()
).file[0]
POOL: Final = descriptor_pool.DescriptorPool()
"""The private pool, which holds these messages alone."""
POOL.Add(_FILE)


SERVICE: Final = f"{_FILE.package}.{_FILE.service[0].name}"
"""Full name of the service."""
METHODS: Final = {method.name: f"/{SERVICE}/{method.name}" for method in _FILE.service[0].method}
"""Path of each call by its name, e.g. `/inference.GRPCInferenceService/ModelInfer`."""

DataType: Any = EnumTypeWrapper(POOL.FindEnumTypeByName(f"{_FILE.package}.DataType"))

# Every top-level message under its own name, e.g. `ModelInferRequest`; `messages.pyi` lists them.
globals().update(
    {
        message.name: message_factory.GetMessageClass(
            POOL.FindMessageTypeByName(f"{_FILE.package}.{message.name}")
        )
        for message in _FILE.message_type
    }
)
