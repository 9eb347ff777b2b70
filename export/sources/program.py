"""A program of `torch.export` as a source, opened without running code from its file.

`torch.export.load` unpickles whatever an archive calls a pickle, loads compiled libraries,
evaluates the expressions of sizes and looks up operators by any name under `torch`. The archive is
therefore inspected first, with the reader that `torch.export.load` itself uses. It may hold a
program in JSON, weights as plain bytes, and example inputs that are tensors. Everything else is
refused by name.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch.export.pt2_archive._package import PT2ArchiveReader
from torch.utils import _pytree as pytree

from edge_runtime.files import one_line
from export.commands.build import SourceSettings
from export.errors import GraphError
from export.exporters import quiet, trace
from export.external import OnnxFile, load_onnx
from export.graphs import has_halves, shape_of
from export.sources.foreign import (
    ForeignSource,
    Original,
    flatten,
    is_class_shape,
    is_pixel_shape,
    prepare,
)
from export.sources.reference import HALF_TOLERANCE, TOLERANCE

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
# Sizes are in sympy's own form, e.g. Add(Integer(1), Symbol('s0', positive=True)).
_SYMBOL = re.compile(r"Symbol\('\w+'")
_CHARACTERS = re.compile(r"(\w|\d\.\d|[-+*/%(),<>=&|~! ])*")
_FUNCTION_CALL = re.compile(r"__|\b[a-z]\w* *\(|\) *\(")


def open_program(path: Path, settings: SourceSettings, scratch: Path) -> ForeignSource:
    """Open a program that `torch.export.save` wrote, and translate it to ONNX in `scratch`.

    Raises:
        ExportError: `prepare` refuses the model, the file is not such a program, or ONNX lacks one
            of its operators.
    """
    program = read_program(path)
    _require_free_batch(program, path)
    index = _find_logits(program, settings.logits, path)
    translated = _translate(program, path, scratch)
    output = translated.model.graph.output[index]
    is_pixel = is_pixel_shape(shape_of(output))
    module = program.module()

    def run(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        with torch.inference_mode():
            logits = pytree.tree_leaves(module(torch.from_numpy(pixels)))[index]
        values: npt.NDArray[Any] = logits.float().numpy()
        return values.reshape(len(values), -1) if is_pixel else values

    original = Original(
        place=path,
        file=dataclasses.replace(translated, files=(path,)),
        logits=flatten(translated.model, output.name) if is_pixel else output.name,
        element=output.type.tensor_type.elem_type,
        run=run,
        runs_in="PyTorch",
        # On a CPU, ONNX Runtime computes half precision in float32.
        tolerance=HALF_TOLERANCE if has_halves(translated.model.graph) else TOLERANCE,
    )
    return prepare(original, settings)


def _require_free_batch(program: Any, path: Path) -> None:
    inputs = _values(program, "placeholder", program.graph_signature.user_inputs)
    if len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor) or not inputs[0].ndim:
        raise GraphError(
            f"expected a program of one tensor in {path}, it takes {len(inputs)} inputs: export a "
            "module whose forward takes only the pictures"
        )
    if isinstance(inputs[0].shape[0], int):
        raise GraphError(
            f"expected a free batch axis in {path}, the program always takes {inputs[0].shape[0]}: "
            'export it with dynamic_shapes=({0: torch.export.Dim("batch")},)'
        )


def _find_logits(program: Any, wanted: str | None, path: Path) -> int:
    """Return the index of the logits among the flat outputs."""
    signature = program.graph_signature.user_outputs
    values = _values(program, None, signature)
    names = _names(program, signature)
    fitting = [i for i, value in enumerate(values) if _is_candidate(value)]
    if wanted is not None:
        matching = [i for i in range(len(names)) if wanted in {names[i], str(signature[i])}]
        if len(matching) == 1:
            return matching[0]
        raise GraphError(
            f"expected --logits to name an output of {path}, got {wanted!r}: name one of its "
            f"outputs {', '.join(names)}"
        )
    if len(fitting) == 1:
        return fitting[0]
    got = f"several ({', '.join(names[i] for i in fitting)})" if fitting else "none"
    raise GraphError(
        f"expected one output of logits, float [batch, classes], in {path}, got {got}: name it "
        f"with --logits (outputs: {', '.join(names)})"
    )


def _is_candidate(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and is_class_shape(value.shape)
        and value.is_floating_point()
    )


def _values(program: Any, operation: str | None, names: Sequence[Any]) -> list[Any]:
    """Return the tensors with these names in the program, without data."""
    known = {
        node.name: node.meta.get("val")
        for node in program.graph.nodes
        if operation is None or node.op == operation
    }
    return [known.get(name) for name in names]


def _names(program: Any, signature: Sequence[Any]) -> list[str]:
    """Return the keys of the outputs if the module returned a dict, else the names of nodes."""
    tree = pytree.tree_unflatten(list(range(len(signature))), program.call_spec.out_spec)
    paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    keys = [str(getattr(path[-1], "key", "")) if path else "" for path in paths]
    return [key or str(name) for key, name in zip(keys, signature, strict=True)]


def _translate(program: Any, path: Path, scratch: Path) -> OnnxFile:
    file = scratch / "program.onnx"
    try:
        trace(program, file)
    except Exception as error:  # noqa: BLE001 - translating raises torch's own unrelated classes
        raise GraphError(
            f"expected a program that torch.onnx can translate in {path}, it failed "
            f"({one_line(error, 200)}): export an ONNX file yourself and give --onnx"
        ) from None
    loaded = load_onnx(file, scratch)
    for written in loaded.files:  # the weights are now in the graph, or in another file
        written.unlink()
    return loaded


def read_program(path: Path) -> Any:
    """Return the `torch.export.ExportedProgram` in a file.

    Raises:
        GraphError: The file is something else, or an archive with content that would run code.
    """
    if not path.is_file():
        raise GraphError(f"expected a program at {path}, no file is there: check the path")
    try:
        with quiet():
            _inspect(PT2ArchiveReader(str(path)))
            return torch.export.load(path)
    except GraphError as error:
        raise GraphError(f"{path} {error}") from None
    except Exception as error:  # noqa: BLE001 - the reader and torch raise unrelated classes
        raise GraphError(
            f"expected a program that torch.export.save wrote at {path}, got something else "
            f"({one_line(error, 120)}): pickles of torch.save and scripts of torch.jit can run "
            "code and are not opened, call torch.export.export and torch.export.save"
        ) from None


def _inspect(archive: PT2ArchiveReader) -> None:
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
    """Return whether a size holds only numbers, symbols and sympy's classes, safe to evaluate."""
    plain = _SYMBOL.sub("Symbol(s", text)  # leaves no other text in quotes
    return bool(_CHARACTERS.fullmatch(plain)) and not _FUNCTION_CALL.search(plain)


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """Yield (key, text) for each text that torch would look up or evaluate, at any depth."""
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


def _refusal(got: str) -> str:
    return (
        f"is expected to hold a program of ATen operators, plain weights and nothing that runs "
        f"code, got {got}: refused, save it again with torch.export.save"
    )
