"""Fuzzes the readers of a bundle: `bundle.json` with its graph, and the scan of a graph.

An input is edits of a valid `bundle.json`, or choices of which a graph is built. What the scan
takes must say the same as `onnx` does; one in `_OPENED_EVERY` is opened by ONNX Runtime.
`CONTRIBUTING.md` says how to run it.
"""

import contextlib
import hashlib
import itertools
import json
from typing import Any

import atheris
import numpy as np
import onnx
from edits import SCRATCH, edit_bytes, edit_json, edit_text, fuzz
from google.protobuf.message import DecodeError, Message

_MODULES = ["bundle", "onnx_file", "contract", "names", "reading", "language.settings"]

with atheris.instrument_imports(include=[f"edge_runtime.{module}" for module in _MODULES]):
    from edge_runtime import bundle, contract, onnx_file
    from edge_runtime.errors import BundleError
    from edge_runtime.language.settings import DecoderSettings
    from edge_runtime.sessions import SessionSettings, open_session

_OPENED_EVERY = 200
_FOLDER = SCRATCH / "fuzzed-bundle"
_GRAPH = _FOLDER / "model.onnx"
# ONNX's messages by the numbers of their fields. It is not the scan's own table, which it checks.
_GRAMMAR = """
model 7:graph 7:graph 14:entry 20:training 25:function 1:number
graph 1:node 1:node 1:node 5:tensor 15:sparse 2:name
node 4:name 4:name 7:domain 5:attribute 5:attribute 1:name 2:name
attribute 6:graph 6:graph 11:graph 5:tensor 10:tensor 22:sparse 23:sparse 1:name 20:number
tensor 13:entry 13:entry 8:name 14:number 1:number 2:number
sparse 1:tensor 2:tensor
function 1:name 10:domain 7:node 7:node 11:attribute
training 1:graph 2:graph
entry 1:key 2:name
"""
_MESSAGES = {
    kind: [(int(number), inner) for number, inner in (field.split(":") for field in fields)]
    for kind, *fields in map(str.split, _GRAMMAR.strip().splitlines())
}
_TEXTS = {
    "name": ["If", "Loop", "Scan", "f", "g", "h", "Identity", "w", "../w", "If\0", "\ud800", ""],
    "domain": ["", "ai.onnx", "com.microsoft", "f"],
    "key": ["location", "location", contract.METADATA_KEY, "offset", ""],
}
_METADATA = contract.GateMetadata(
    contract_version=contract.CONTRACT_VERSION,
    task="image-classification",
    confidence_kind="max_softmax",
    confidence_range=(0.5, 1.0),
    threshold=0.75,
    labels=("cat", "dog"),
    input=contract.InputDescription(name="image", dtype="uint8", shape=("n", "h", "w", 3)),
    calibration={"goal": {"target_deferral": 0.3}, "achieved": 0.3, "n": 10},
    second_look={"view": "mirror", "low": 0.6, "high": None, "band": 0.1, "share": 0.2},
    extra={
        "generation": {"eos_token_ids": [2], "pad_token_id": 0, "max_new_tokens": 8, "context": 64}
        | {"layers": 2, "kv_heads": 2, "head_dim": 8, "least_onnxruntime": "1.20"}
    },
).to_json()
_number, _other = itertools.count(), itertools.count()


def _varint(value: int) -> bytes:
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _entry(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _message(kind: str, given: atheris.FuzzedDataProvider, level: int) -> bytes:
    """Return a message with parts that the input chooses."""
    parts: list[bytes] = []
    most = 4 if level < 4 else 1
    for _ in range(given.ConsumeIntInRange(0 if level else 1, most)):
        number, inner = given.PickValueInList(_MESSAGES[kind])
        if inner == "number":
            parts.append(_varint(number << 3) + _varint(given.ConsumeIntInRange(0, 1 << 64)))
        elif inner in _TEXTS:
            text = given.PickValueInList(_TEXTS[inner]).encode("utf-8", "surrogatepass")
            parts.append(_entry(number, text))
        elif level < 60:
            parts.append(_entry(number, _message(inner, given, level + 1)))
    if kind in {"node", "function"} and given.ConsumeBool():
        number, name = (4 if kind == "node" else 1), given.PickValueInList(_TEXTS["name"][:6])
        parts.append(_entry(number, name.encode()))
    return b"".join(parts)


def _nested(given: atheris.FuzzedDataProvider) -> bytes:
    """Return a graph within graphs, or functions that call functions."""
    levels = given.ConsumeIntInRange(1, 24)
    if given.ConsumeBool():
        calls = given.ConsumeIntInRange(1, 6)
        return b"".join(
            _entry(25, _entry(1, b"%d" % i) + _entry(7, _entry(4, b"%d" % (i + 1))) * calls)
            for i in range(levels)
        ) + _entry(7, _entry(1, _entry(4, b"0")))
    content = _message("graph", given, 3)
    for _ in range(levels):
        content = _entry(1, _entry(4, b"If") + _entry(5, _entry(6, content)))
    return _entry(7, content)


def _parts_of(message: Message) -> Any:
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for part in value if descriptor.is_repeated else [value]:
                yield from _parts_of(part)


def _require_same(graph: bytes, found: onnx_file.OnnxFile) -> str:
    """Compare what the scan found with what `onnx` finds, and open some of them."""
    try:
        model = onnx.ModelProto.FromString(graph)
    except DecodeError:
        return "scanned, no ONNX"
    for part in _parts_of(model):
        if isinstance(part, onnx.TensorProto):
            named = [e.value for e in part.external_data if e.key == "location"]
            assert set(named) <= set(found.external), (named, found)
        if isinstance(part, onnx.NodeProto):
            nested = any(a.HasField("g") or a.graphs for a in part.attribute)
            assert not nested or (part.op_type == "If" and part.domain in {"", "ai.onnx"}), part
    assert dict.fromkeys(e.key for e in model.metadata_props) == dict.fromkeys(found.metadata)
    if next(_number) % _OPENED_EVERY:
        return "scanned"
    _GRAPH.write_bytes(graph)
    opened = bundle.Bundle(
        _FOLDER, _GRAPH, contract.GateMetadata.from_json(_METADATA), {}, content=graph
    )
    if not found.external:
        open_session(opened, SessionSettings(threads=1))
    return "opened"


def _read_graph(given: atheris.FuzzedDataProvider) -> str:
    graph = _nested(given) if given.ConsumeIntInRange(0, 7) == 0 else _message("model", given, 0)
    if given.ConsumeIntInRange(0, 3) == 0:
        graph = edit_bytes(graph, given)
    return _require_same(graph, onnx_file.scan_onnx(graph, _GRAPH))


def _read_bundle(given: atheris.FuzzedDataProvider) -> str:
    """Open a bundle of an edited record, its graph's hash and metadata corrected where it can."""
    text = (
        json.dumps(edit_json(_METADATA, given, _TEXTS["name"]))
        if given.ConsumeBool()
        else _METADATA
    )
    graph = _entry(14, _entry(1, contract.METADATA_KEY.encode()) + _entry(2, text.encode()))
    graph += _entry(7, _message("graph", given, 2) if given.ConsumeBool() else b"")
    record = {
        "files": {"model.onnx": hashlib.sha256(graph).hexdigest()},
        "graphs": {"classifier": "model.onnx", "decoder": "model.onnx"},
        "verification": {"n": 3},
        "metadata": None,
    }
    seed = json.dumps(record | {"metadata": json.loads(text)})
    if given.ConsumeBool():
        seed = json.dumps(edit_json(seed, given, ["model.onnx", "../model.onnx", "bundle.json"]))
    if given.ConsumeIntInRange(0, 7) == 0:
        seed = edit_text(seed, given)
    _GRAPH.write_bytes(graph)
    (_FOLDER / "bundle.json").write_bytes(seed.encode("utf-8", "surrogatepass"))
    role = bundle.role_of(_FOLDER) if given.ConsumeBool() else contract.ROLE_CLASSIFIER
    opened = bundle.read_bundle(_FOLDER, role)
    # As texts: half a surrogate pair, which no file holds, is written as an escape.
    text = opened.metadata.to_json()
    assert contract.GateMetadata.from_json(text).to_json() == text
    _read_settings(opened.metadata)
    return "bundle opened"


def _read_settings(metadata: contract.GateMetadata) -> None:
    """Read the parts that stand for themselves."""
    if metadata.second_look is not None:
        with contextlib.suppress(BundleError):
            contract.SecondLook.from_fields(metadata.second_look)
    if metadata.task == contract.TASK_GENERATION:
        settings = DecoderSettings.from_metadata(metadata)
        assert settings.layers <= 2000
        np.zeros((64, settings.kv_heads, 0, settings.head_dim), np.float32)
        np.full(1, settings.pad_token_id, np.int64)


def _read_metadata(given: atheris.FuzzedDataProvider) -> str:
    fields = edit_json(_METADATA, given, ["text-generation", "1.20.0"])
    if isinstance(fields, dict) and given.ConsumeBool():
        fields["task"] = contract.TASK_GENERATION
    text = json.dumps(fields)
    text = edit_text(text, given) if given.ConsumeIntInRange(0, 7) == 0 else text
    found = contract.GateMetadata.from_json(text)
    _read_settings(found)
    return "metadata read"


def read(given: atheris.FuzzedDataProvider) -> str:
    """Read one input in one of the ways."""
    way = given.ConsumeIntInRange(0, 7)
    if way < 4:
        return _read_graph(given)
    return _read_bundle(given) if way < 7 else _read_metadata(given)


if __name__ == "__main__":
    _FOLDER.mkdir(exist_ok=True)
    fuzz(read, max_len=400, len_control=0)
