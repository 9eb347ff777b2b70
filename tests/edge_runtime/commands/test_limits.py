"""`doctor` ends on a bundle of honest operators that ask for endless memory or time."""

import json
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tools.processes import needs_proc

from edge_runtime.__main__ import COMMANDS
from edge_runtime.bundle import file_sha256
from edge_runtime.cli import main

HUGE = 3 << 29
"""Elements of 6 GiB, which a machine may well have."""
SIDE = 40_000


def burdened(bundle, folder, constants, *nodes):
    """Copy a bundle, and let its confidence depend on nodes that end in the tensor `huge`."""
    path = shutil.copytree(bundle, folder / "burdened")
    model = onnx.load(path / "model.onnx")
    graph = model.graph
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == "confidence":
                node.output[place] = "light"
    values = {**constants, "nothing": np.zeros(1, np.float32)}
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in values.items())
    graph.node.extend(
        [
            *nodes,
            helper.make_node("ReduceMax", ["huge"], ["most"], keepdims=0),
            helper.make_node("Mul", ["most", "nothing"], ["weightless"]),
            helper.make_node("Add", ["light", "weightless"], ["confidence"]),
        ]
    )
    onnx.save(model, path / "model.onnx")
    record = json.loads((path / "bundle.json").read_text())
    record["files"]["model.onnx"] = file_sha256(path / "model.onnx")
    (path / "bundle.json").write_text(json.dumps(record))
    return path


def sizes(*values):
    return np.array(values, np.int64)


def zeros(*shape):
    return np.zeros(shape, np.float32)


def node(operator, *inputs, output="huge", **attributes):
    return helper.make_node(operator, list(inputs), [output], **attributes)


SQUARE = node("ConstantOfShape", "square", output="plane")
OPERATORS = {
    "ConstantOfShape": ({"n": sizes(HUGE)}, node("ConstantOfShape", "n")),
    "Expand": ({"x": zeros(1), "n": sizes(HUGE)}, node("Expand", "x", "n")),
    "Tile": ({"x": zeros(1 << 10), "n": sizes(HUGE >> 10)}, node("Tile", "x", "n")),
    "Range": (
        {"a": np.float32(0), "b": np.float32(HUGE), "c": np.float32(1)},
        node("Range", "a", "b", "c"),
    ),
    "Resize": (
        {"x": zeros(1, 1, 8, 8), "n": np.array([1, 1, 5000, 5000], np.float32)},
        node("Resize", "x", "", "n", mode="nearest"),
    ),
    "Pad": ({"x": zeros(8), "n": sizes(0, HUGE)}, node("Pad", "x", "n")),
    "OneHot": (
        {"x": np.zeros(1 << 10, np.int64), "n": sizes(HUGE >> 10), "v": zeros(2)},
        node("OneHot", "x", "n", "v"),
    ),
    "EyeLike": (
        {"square": sizes(SIDE, SIDE)},
        SQUARE,
        node("EyeLike", "plane", dtype=TensorProto.FLOAT),
    ),
    "RandomNormal": ({}, node("RandomNormal", shape=[HUGE])),
    "Einsum": ({"x": zeros(SIDE)}, node("Einsum", "x", "x", equation="i,j->ij")),
    "MatMul": ({"x": zeros(SIDE, 1), "y": zeros(1, SIDE)}, node("MatMul", "x", "y")),
}


@needs_proc
@pytest.mark.parametrize("operator", OPERATORS)
def test_memory_without_end_is_refused_in_one_line(operator, bundle, tmp_path, capfd):
    path = burdened(bundle, tmp_path, *OPERATORS[operator])
    before = resource.getrlimit(resource.RLIMIT_DATA)
    assert main("python -m edge_runtime", COMMANDS, argv=["doctor", "--bundle", str(path)]) == 1
    out, errors = capfd.readouterr()
    failed = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 1
    assert failed[0].startswith("FAIL  bundle: ")
    assert errors.count("\n") == 1
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.slow
def test_time_without_end_is_cut_off_in_one_line(bundle, tmp_path):
    plane = node("ConstantOfShape", "square", output="plane0")
    products = [
        node("MatMul", f"plane{n}", f"plane{n}", output=f"plane{n + 1}") for n in range(10_000)
    ]
    last = node("Identity", "plane10000")
    path = burdened(bundle, tmp_path, {"square": sizes(4096, 4096)}, plane, *products, last)
    words = ["doctor", "--bundle", str(path), "--bundle-limit-s", "1"]
    ended = subprocess.run(
        [sys.executable, "-m", "edge_runtime", *words], capture_output=True, text=True, check=False
    )
    assert ended.returncode in {1, -signal.SIGKILL}
    assert ended.stderr.count("\n") == 1
    assert "to load and run within 1 s, it did not" in ended.stderr
