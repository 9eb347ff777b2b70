"""The committed descriptor set matches the .proto and the protocol, and clashes with no other."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.wire import messages as pb

ROOT = Path(__file__).parents[3]
WIRE = ROOT / "edge_runtime" / "wire"
MESSAGES = sorted(name for name in vars(pb) if name.endswith(("Request", "Response")))
MESSAGES += ["InferParameter", "InferTensorContents", "ModelStatistics"]
CONFIGURATION = ["ModelConfig", "ModelInput", "ModelOutput", "ModelDynamicBatching"]


def _generator():
    spec = importlib.util.spec_from_file_location(
        "generator", ROOT / "tests/tools/generate_wire.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_descriptor_and_stub_are_what_the_proto_compiles_to(tmp_path):
    descriptor, stub = _generator().compile_proto(WIRE / "inference.proto", tmp_path)
    assert (WIRE / "descriptor.binpb").read_bytes() == descriptor
    assert (WIRE / "messages.pyi").read_text(encoding="utf-8") == stub


def _is_repeated(field):
    # Older protobuf has no such attribute, and newer ones warn of the label.
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == 3


def _fields(descriptor, prefix=""):
    """Every field of a message and the messages nested in it."""
    found = {
        (prefix, field.name): (
            field.number,
            field.type,
            _is_repeated(field),
            field.message_type and field.message_type.full_name,
            field.containing_oneof and field.containing_oneof.name,
        )
        for field in descriptor.fields
    }
    for nested in descriptor.nested_types:
        found |= _fields(nested, f"{prefix}.{nested.name}")
    return found


@pytest.mark.parametrize("name", MESSAGES)
def test_every_field_is_the_one_that_tritonclient_knows(name):
    service = pytest.importorskip("tritonclient.grpc.service_pb2")
    _compare(name, service)


@pytest.mark.parametrize("name", CONFIGURATION)
def test_every_field_of_a_configuration_is_tritons(name):
    _compare(name, pytest.importorskip("tritonclient.grpc.model_config_pb2"))


def test_datatypes_of_a_configuration_are_tritons():
    config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    assert pb.DataType.items() == config.DataType.items()


def _compare(name, service):
    ours = _fields(getattr(pb, name).DESCRIPTOR)
    theirs = _fields(getattr(service, name).DESCRIPTOR)
    assert ours == {key: theirs[key] for key in ours}


def test_call_paths_are_those_of_the_protocol():
    assert sorted(pb.METHODS) == [
        "ModelConfig", "ModelInfer", "ModelMetadata", "ModelReady", "ModelStatistics",
        "ModelStreamInfer", "RepositoryIndex", "ServerLive", "ServerMetadata", "ServerReady",
    ]  # fmt: skip
    assert pb.METHODS["ModelInfer"] == "/inference.GRPCInferenceService/ModelInfer"


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [
        ("edge_runtime.wire.messages", "tritonclient.grpc"),
        ("tritonclient.grpc", "edge_runtime.wire.messages"),
    ],
)
def test_lives_beside_tritonclient_whoever_is_imported_first(order):
    pytest.importorskip("tritonclient.grpc")
    program = (
        f"import {order[0]}, {order[1]}\n"
        "from tritonclient.grpc import service_pb2 as theirs\n"
        "from edge_runtime.wire import messages as ours\n"
        "data = ours.ModelInferRequest(model_name='m', raw_input_contents=[b'x'])\n"
        "back = theirs.ModelInferRequest.FromString(data.SerializeToString())\n"
        "assert (back.model_name, list(back.raw_input_contents)) == ('m', [b'x'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_client_imports_nothing_heavy():
    program = (
        "import sys, edge_runtime.cloud.model\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'scipy', 'PIL'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
