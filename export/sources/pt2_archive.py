"""Opens a program of `torch.export` without running code from its file.

`torch.export.load` unpickles whatever an archive calls a pickle, loads compiled libraries,
evaluates the expressions of sizes and looks up operators by any name under `torch`. So the archive
is looked through first, by the reader that `torch.export.load` uses itself: it may hold a program
in JSON, weights as plain bytes, and example inputs that are tensors. Refused: everything else, by
name.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive._package import PT2ArchiveReader

from export.errors import GraphError

_PROGRAM = "models/model.json"
_EXAMPLES = "data/sample_inputs/model.pt"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_PLAIN = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/\w+|extra/.*|"
    r"data/weights/weight_\d+|data/constants/tensor_\d+"
)
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims?|higher_order|quantized_decomposed|torchvision)\.\w+(\.\w+)?|"
    r"torch\.sym_\w+|_operator\.\w+|math\.\w+"
)
# Sizes are sympy's own form, e.g. Add(Integer(1), Symbol('s0', positive=True)).
_SYMBOL = re.compile(r"Symbol\('\w+'")
_CHARACTERS = re.compile(r"(\w|\d\.\d|[-+*/%(),<>=&|~! ])*")
_FUNCTION_CALL = re.compile(r"__|\b[a-z]\w* *\(|\) *\(")


def read_program(path: Path) -> Any:
    """Return the `torch.export.ExportedProgram` in a file.

    Raises:
        GraphError: It is another file, or an archive with anything in it that would run code.
    """
    if not path.is_file():
        raise GraphError(f"expected a program at {path}, no file is there: check the path")
    try:
        with _quiet():
            _look_through(PT2ArchiveReader(str(path)))
            return torch.export.load(path)
    except GraphError as error:
        raise GraphError(f"{path} {error}") from None
    except Exception as error:  # noqa: BLE001 - the reader and torch raise unrelated classes
        reason = " ".join(str(error).split())[:120]
        raise GraphError(
            f"expected a program that torch.export.save wrote at {path}, it is none ({reason}): "
            "pickles of torch.save and scripts of torch.jit can run code and are not opened, call "
            "torch.export.export and torch.export.save"
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch logs a traceback of what it raises afterwards, and warns of its own deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _look_through(archive: PT2ArchiveReader) -> None:
    known = {_PROGRAM, _EXAMPLES, *_CONFIGS}
    for name in archive.get_file_names():
        if name not in known and not _PLAIN.fullmatch(name):
            raise GraphError(_refusal(f"the file {name}"))
    for name in _CONFIGS:
        _require_plain_weights(json.loads(archive.read_string(name)), str(Path(name).parent))
    _require_tensors(archive.read_bytes(_EXAMPLES))
    _require_plain_program(json.loads(archive.read_string(_PROGRAM)))


def _require_plain_weights(config: Any, folder: str) -> None:
    for entry in config["config"].values():
        if entry["use_pickle"] or not _PLAIN.fullmatch(f"{folder}/{entry['path_name']}"):
            raise GraphError(_refusal(f"the pickle {entry['path_name']}"))


def _require_tensors(examples: bytes) -> None:
    if not examples:
        return
    try:
        torch.load(io.BytesIO(examples), weights_only=True)
    except Exception:  # noqa: BLE001 - UnpicklingError and whatever a damaged file raises
        raise GraphError(_refusal("example inputs that are no plain tensors")) from None


def _require_plain_program(program: Any) -> None:
    for key, value in _texts(program):
        if key == "operator" and not _OPERATOR.fullmatch(value):
            raise GraphError(_refusal(f"the operator {value[:60]!r}"))
        if key == "expr_str" and not _is_size(value):
            raise GraphError(_refusal(f"the size {value[:60]!r}"))


def _is_size(text: str) -> bool:
    """Tell numbers, symbols and sympy's classes from what else Python could evaluate."""
    plain = _SYMBOL.sub("Symbol(s", text)  # leaves no other text in quotes
    return bool(_CHARACTERS.fullmatch(plain)) and not _FUNCTION_CALL.search(plain)


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """Yield (key, text) of what torch would look up or evaluate, at any depth."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "target" in item and "inputs" in item:  # a node
                yield "operator", str(item["target"])
            if isinstance(item.get("expr_str"), str):
                yield "expr_str", item["expr_str"]
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _refusal(came: str) -> str:
    return (
        f"is expected to hold a program of ATen operators, plain weights and nothing that runs "
        f"code, got {came}: refused, save it anew with torch.export.save"
    )
