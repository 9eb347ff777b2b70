"""Opens a file of `torch.export.save` without letting PyTorch read it.

PyTorch's reader unpickles whatever an archive calls a pickle, loads compiled libraries, and falls
back on an older format, which it reads with another parser of zip files. So the file is read here,
once, by one parser; the program's JSON is built anew from what is allowed; and PyTorch is handed
an archive that this module wrote: that JSON, the weights as plain bytes, and nothing else. Example
inputs, which are a pickle, are not needed and never read.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Any, Final

import torch
from torch._export.serde import schema
from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

from edge_runtime.files import one_line
from edge_runtime.names import what_is
from edge_runtime.reading import parse_json
from export.errors import GraphError
from export.exporters import quiet
from export.sources.program_schema import admit, refusal

_PROGRAM: Final = "models/model.json"
_FOLDERS: Final = {
    "data/weights": "model_weights_config",
    "data/constants": "model_constants_config",
}
_IGNORED: Final = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/\w+|extra/.*|"
    r"data/sample_inputs/model\.pt"
)
_FIXED: Final = {
    "archive_format": b"pt2",
    "archive_version": b"0",
    "byteorder": b"little",
    ".data/version": b"6\n",
    "data/sample_inputs/model.pt": b"",
}
_JSON_RECORDS: Final = {_PROGRAM, *(f"{folder}/{name}.json" for folder, name in _FOLDERS.items())}
_LARGEST_JSON: Final = 64 * 2**20
_MOST_RECORDS: Final = 100_000
_DEPTH: Final = 100


def read_program(path: Path) -> Any:
    """Return the `torch.export.ExportedProgram` in a file.

    Raises:
        GraphError: The file is something else, or holds something that is not allowed.
    """
    if not path.is_file() or path.suffix in {".onnx", ".zip"}:
        raise GraphError(f"expected a program FILE.pt2, at {path} is {what_is(path)}")
    try:
        with quiet(), path.open("rb") as file, tempfile.TemporaryFile() as copy:
            _rewrite(file, copy)
            copy.seek(0)
            return torch.export.load(copy)
    except GraphError as error:
        raise GraphError(f"{path} {error}") from None
    except Exception as error:  # noqa: BLE001 - zipfile and torch raise unrelated classes
        raise GraphError(
            f"expected a program that torch.export.save wrote at {path}, got something else "
            f"({one_line(error, 120)}): pickles of torch.save and scripts of torch.jit can run "
            "code and are not opened, call torch.export.export and torch.export.save"
        ) from None


def _rewrite(file: IO[bytes], copy: IO[bytes]) -> None:
    """Write the archive that PyTorch may read."""
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(copy, "w") as target:
        records = _records(source, os.fstat(file.fileno()).st_size)
        for name, content in _FIXED.items():
            target.writestr(f"program/{name}", content)
        program = admit(schema.ExportedProgram, _load_program(source, records))
        target.writestr(f"program/{_PROGRAM}", json.dumps(program))
        for folder, name in _FOLDERS.items():
            config = _load_json(source, records, f"{folder}/{name}.json")
            config = admit(schema.PayloadConfig, config)
            target.writestr(f"program/{folder}/{name}.json", json.dumps(config))
            for record in _payloads(config, records, folder):
                with (
                    source.open(records[record]) as read,
                    target.open(f"program/{record}", "w", force_zip64=True) as written,
                ):
                    shutil.copyfileobj(read, written, 2**20)


def _records(source: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the records by their names below the archive's one folder."""
    infos = source.infolist()
    root = infos[0].filename.partition("/")[0] if infos else ""
    records = {info.filename.removeprefix(f"{root}/"): info for info in infos}
    if len(records) != len(infos) or len(infos) > _MOST_RECORDS:
        raise refusal("several records of one name, or too many")
    # Uncompressed and side by side, as PyTorch writes them: a copy is no larger than the file.
    if any(i.compress_type for i in infos) or sum(i.file_size for i in infos) > size:
        raise refusal("records that are compressed or overlap")
    for name in records:
        folder, _, file = name.rpartition("/")
        payload = folder in _FOLDERS and re.fullmatch(r"(weight|tensor)_\d+", file)
        if not (payload or _IGNORED.fullmatch(name) or name in _JSON_RECORDS):
            raise refusal(f"the file {one_line(name, 60)}")
    return records


def _load_program(source: zipfile.ZipFile, records: dict[str, zipfile.ZipInfo]) -> dict[str, Any]:
    program: dict[str, Any] = _load_json(source, records, _PROGRAM)
    version = program["schema_version"]["major"]
    if version != schema.SCHEMA_VERSION[0]:
        # PyTorch would now look for an older format, which is a pickle.
        raise refusal(
            f"version {one_line(version, 20)} of the format (PyTorch {torch.__version__} has "
            f"{schema.SCHEMA_VERSION[0]})"
        )
    module = program["graph_module"]
    module["module_call_graph"] = module["module_call_graph"][:1]  # the others are submodules
    return program


def _load_json(
    source: zipfile.ZipFile, records: dict[str, zipfile.ZipInfo], name: str
) -> dict[str, Any]:
    if name not in records or records[name].file_size > _LARGEST_JSON:
        raise refusal(f"no {name} of at most {_LARGEST_JSON} bytes")
    value: dict[str, Any] = parse_json(source.read(records[name]).decode(), depth=_DEPTH)
    return value


def _payloads(config: dict[str, Any], records: dict[str, zipfile.ZipInfo], folder: str) -> set[str]:
    """Return the records of weights; each has as many bytes as its tensors need at least."""
    found = set()
    for entry in config["config"].values():
        name, meta = f"{folder}/{entry['path_name']}", entry["tensor_meta"]
        if entry["use_pickle"] or meta is None:
            raise refusal(f"the pickle {entry['path_name']}")
        sizes = [size["as_int"] for size in meta["sizes"]]
        needed = math.prod(sizes) * _SERIALIZE_TO_TORCH_DTYPE[meta["dtype"]].itemsize
        if min(sizes, default=0) < 0 or needed > records[name].file_size:
            raise refusal(f"{records[name].file_size} bytes for {sizes} in {name}")
        found.add(name)
    return found
