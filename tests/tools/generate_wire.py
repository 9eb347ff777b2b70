"""Compile `inference.proto` into what the package ships: the descriptor set and the type stub.

Run from the repository root after an edit of the .proto, and commit both files:

    python tests/tools/generate_wire.py
"""

from __future__ import annotations

import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

WIRE = Path("edge_runtime/wire")
STUB_HEAD = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
STUB_TAIL = """
POOL: _descriptor_pool.DescriptorPool
SERVICE: str
METHODS: dict[str, str]
"""


def compile_proto(proto: Path, into: Path) -> tuple[bytes, str]:
    """Return the descriptor set and the stub of a .proto file.

    Args:
        proto: The file to compile.
        into: A folder for the compiler's output.
    """
    descriptor = into / "descriptor.binpb"
    status = protoc.main(
        [
            "protoc",
            f"-I{proto.parent}",
            f"-I{resources.files('grpc_tools') / '_proto'}",
            f"--descriptor_set_out={descriptor}",
            f"--pyi_out={into}",
            proto.name,
        ]
    )
    if status != 0:
        raise SystemExit(f"protoc failed on {proto} with status {status}")
    stub = (into / f"{proto.stem}_pb2.pyi").read_text(encoding="utf-8")
    # The plugin leaves the mapping bare, which strict type checking refuses.
    stub = stub.replace("_Mapping]", "_Mapping[str, object]]")
    return descriptor.read_bytes(), STUB_HEAD + stub.rstrip("\n") + "\n" + STUB_TAIL


def main() -> int:
    """Write both files beside the .proto."""
    with tempfile.TemporaryDirectory() as folder:
        descriptor, stub = compile_proto(WIRE / "inference.proto", Path(folder))
    (WIRE / "descriptor.binpb").write_bytes(descriptor)
    (WIRE / "messages.pyi").write_text(stub, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
