"""Fuzzes the reader of `.pt2` files: what it admits is opened by PyTorch and reaches nothing else.

An input is edits of a part of a small program, of its archive, or of the archive's bytes. Each
part goes through the admission; one in `_OPENED_EVERY` of those that differ is opened as a file.
`CONTRIBUTING.md` says how to run it.
"""

import io
import itertools
import json
import sys
import warnings
import zipfile
from typing import Any

import atheris
from edits import SCRATCH, edit_bytes, edit_json, fuzz

_MODULES = ["program_file", "program_schema", "program_operators"]

with atheris.instrument_imports(include=[f"export.sources.{module}" for module in _MODULES]):
    import torch
    from torch._export.serde import schema

    from export.sources import program_file
    from export.sources.program_schema import admit

_OPENED_EVERY = 100
_FILE = SCRATCH / "fuzzed.pt2"
_PART_KINDS = {
    (): schema.ExportedProgram,
    ("graph_module", "graph"): schema.Graph,
    ("graph_module", "signature"): schema.GraphSignature,
    ("graph_module", "module_call_graph", 0): schema.ModuleCallEntry,
}
_WORDS = [
    *(f"torch.ops.aten.{name}" for name in ("relu.default", "from_file.default", "sym_size.int")),
    *("_operator.mul", "_operator.pow", "torch.ops.higher_order.cond", "torch.sym_max"),
    *("as_int", "as_expr", "as_tensors", "as_graph", "as_string", "as_operator", "as_name"),
    *("builtins.dict", "builtins.eval", "collections.OrderedDict", "enum.Enum", "p_weight"),
    *("x", "self", "import", "s0", "s77", "u99999", "weight_0", "../weight_0", "tensor_1"),
    *("Integer(9)", "Pow(Integer(9),Integer(9))", "PowByNatural(Symbol('s0'),Integer(8))"),
    "Mul(Symbol('s0',integer=True),Symbol('s0',integer=True))",
    "Mod(Symbol('s77',positive=True,integer=True),Integer(0))",
]


class _Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2, 4))
        self.register_buffer("shift", torch.ones(2))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": torch.nn.functional.linear(x.flatten(1), self.weight, self.shift)}


def _records() -> dict[str, bytes]:
    """Return the records of a small program without what is never read."""
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(
        _Small().eval(), (torch.zeros(2, 2, 2),), dynamic_shapes=({0: batch},)
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    with zipfile.ZipFile(file) as archive:
        root = archive.namelist()[0].partition("/")[0]
        records = {n.removeprefix(f"{root}/"): archive.read(n) for n in archive.namelist()}
    model = json.loads(records["models/model.json"])
    for node in model["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {}
    module = model["graph_module"]
    module["metadata"], module["module_call_graph"] = {}, module["module_call_graph"][:1]
    return {**records, "models/model.json": json.dumps(model).encode()}


_RECORDS = _records()
_MODEL = _RECORDS["models/model.json"].decode()
_CONFIG = "data/weights/model_weights_config.json"


def _at(value: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _parts() -> list[tuple[tuple[str | int, ...], type, str]]:
    model, graph = json.loads(_MODEL), ("graph_module", "graph")
    kinds: dict[tuple[str | int, ...], type] = dict(_PART_KINDS)
    kinds |= {(*graph, "nodes", i): schema.Node for i in range(len(_at(model, graph)["nodes"]))}
    kinds |= {(*graph, "tensor_values", n): schema.TensorMeta for n in ("x", "linear")}
    return [(path, kind, json.dumps(_at(model, path))) for path, kind in kinds.items()]


_PARTS = _parts()
_BROKEN: list[str] = []
_FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen"}
_FORBIDDEN |= {"socket.connect", "pickle.find_class", "ctypes.dlopen", "os.remove", "os.rename"}
_seen: set[int] = set()
_number = itertools.count()


def _watch(event: str, details: tuple[Any, ...]) -> None:
    if event in _FORBIDDEN:
        _BROKEN.append(f"{event} {details}")


def _archive(records: list[tuple[str, bytes]], kind: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, content in records:
            archive.writestr(f"program/{name}", content)
    return file.getvalue()


_WHOLE = _archive(list(_RECORDS.items()))


def _open(content: bytes) -> None:
    _FILE.write_bytes(content)
    program_file.read_program(_FILE)
    assert not _BROKEN, _BROKEN


def _read_part(given: atheris.FuzzedDataProvider) -> str:
    # The smaller a part, the more inputs a second.
    first = 0 if given.ConsumeIntInRange(0, 31) == 31 else 2
    path, kind, seed = given.PickValueInList(_PARTS[first:])
    value = admit(kind, edit_json(seed, given, _WORDS))
    text = json.dumps(value)
    if (key := hash(text)) in _seen:
        return "admitted, as before"
    _seen.add(key)
    if next(_number) % _OPENED_EVERY:
        return "admitted"
    model = json.loads(_MODEL)
    if path:
        _at(model, path[:-1])[path[-1]] = value
        text = json.dumps(model)
    _open(_archive([*{**_RECORDS, "models/model.json": text.encode()}.items()]))
    return "opened"


def _read_config(given: atheris.FuzzedDataProvider) -> str:
    config = edit_json(_RECORDS[_CONFIG].decode(), given, _WORDS)
    admit(schema.PayloadConfig, config)
    return "weights admitted"


def _rewrite(content: bytes) -> str:
    """Read an archive up to the one that PyTorch would get."""
    _FILE.write_bytes(content)
    try:
        with _FILE.open("rb") as file:
            program_file._rewrite(file, io.BytesIO())
    except (RecursionError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - `read_program` refuses these too
        return f"archive refused, {type(error).__name__}"
    return "archive admitted"


def _read_archive(given: atheris.FuzzedDataProvider) -> str:
    records = list(_RECORDS.items())
    at, other = (given.ConsumeIntInRange(0, len(records) - 1) for _ in range(2))
    way, (name, content) = given.ConsumeIntInRange(0, 4), records[at]
    kind = zipfile.ZIP_STORED
    if way == 0:
        records[at] = given.PickValueInList([*_RECORDS, *_WORDS]), content
    elif way == 1:
        records[at] = name, edit_bytes(content, given)
    elif way == 2:
        records[at] = name, records[other][1]
    elif way == 3:
        records.pop(at)
    else:
        kind = zipfile.ZIP_DEFLATED
    return _rewrite(_archive(records, kind))


def read(given: atheris.FuzzedDataProvider) -> str:
    """Read one input in one of the ways."""
    way = given.ConsumeIntInRange(0, 63)
    if way < 58:  # also where the input is at its end
        return _read_part(given)
    if way < 62:
        return _read_config(given)
    if way == 62:
        return _read_archive(given)
    first = 0 if given.ConsumeBool() else _WHOLE.rindex(b"PK\1\2") - 900
    return _rewrite(edit_bytes(_WHOLE, given, first))


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "Duplicate name")
    _open(_WHOLE)
    sys.addaudithook(_watch)
    _open(_WHOLE)
    fuzz(read, max_len=128, len_control=0)
