"""Tiny ONNX graphs that return their inputs."""

import onnx
from onnx import TensorProto, helper

ELEMENTS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}
"""The protocol's datatype -> ONNX's element type."""
SIZES = {
    "BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2, "INT32": 4,
    "UINT32": 4, "FP32": 4, "INT64": 8, "UINT64": 8, "FP64": 8,
}  # fmt: skip
"""Bytes of an element."""
FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}  # fmt: skip
"""Field of each datatype in typed contents; FP16 and BF16 have none."""


def write_identity(path, **inputs):
    """Write a graph whose output `NAME_out` is the input `NAME`.

    Args:
        path: The file.
        **inputs: Datatype and shape of each; an axis with a name is free.
    """
    infos = {
        name: [
            helper.make_tensor_value_info(end, ELEMENTS[datatype], shape)
            for end in (name, f"{name}_out")
        ]
        for name, (datatype, shape) in inputs.items()
    }
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in inputs],
        "identity",
        [given for given, _ in infos.values()],
        [got for _, got in infos.values()],
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


GATHERED_ROWS = 16
"""Rows of a full batch of the models `TYPE.gathered`, which wait for one."""


def write_zoo(folder, bundle):
    """Write a `--models` file: `large`, a bundle, and identity graphs of all kinds.

    Each datatype has a model under its name that takes `x` [n, 2], and another that waits for a
    full batch. `fixed` and the scalars have no batch axis, `free` and `words` have two free axes,
    and `several` takes three inputs of different types and shapes.
    """
    zoo = {datatype: {"x": (datatype, ["n", 2])} for datatype in ELEMENTS}
    zoo |= {f"{kind}.scalar": {"x": (kind, [])} for kind in ("FP64", "BF16", "BYTES", "BOOL")}
    zoo["fixed"] = {"x": ("FP32", [2, 3])}
    zoo["free"] = {"x": ("FP32", ["n", "width"])}
    zoo["words"] = {"x": ("BYTES", ["n", "width"])}
    zoo["several"] = {
        "values": ("FP32", ["n", "width"]),
        "ids": ("INT64", ["n"]),
        "words": ("BYTES", ["n", "count"]),
    }
    tables = [f'bundle = "{bundle}"']
    for name, inputs in zoo.items():
        write_identity(folder / f"{name}.onnx", **inputs)
        tables.append(f'model = "{name}"\nonnx = "{name}.onnx"\nthreads = 1')
    tables += [
        f'model = "{name}.gathered"\nonnx = "{name}.onnx"\nthreads = 1\n'
        # A full batch does not wait, so no test does either.
        f"max_batch = {GATHERED_ROWS}\nmax_delay_ms = 50000"
        for name in ELEMENTS
    ]
    text = "\n".join(f"[[model]]\n{table}" for table in tables)
    (folder / "models.toml").write_text(text, encoding="utf-8")
    return folder / "models.toml"
