"""An ONNX file of a stranger opens no file elsewhere, and runs no loop that was not asked for."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cloud_stub.backends.graph import GraphBackend
from cloud_stub.model_settings import ModelSettings
from edge_runtime.errors import BundleError, SettingError


def info(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def counting_loop(path):
    """Write a graph that adds x to itself n times, where n is an input."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("go", TensorProto.BOOL, []),
            info("v", TensorProto.FLOAT, [1]),
        ],
        [info("on", TensorProto.BOOL, []), info("w", TensorProto.FLOAT, [1])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        "main",
        [info("n", TensorProto.INT64, []), info("x", TensorProto.FLOAT, [1])],
        [info("y", TensorProto.FLOAT, [1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)


def test_a_loop_is_served_only_where_it_was_asked_for(tmp_path):
    counting_loop(tmp_path / "m.onnx")
    with pytest.raises(BundleError, match="without loops"):
        GraphBackend(tmp_path / "m.onnx", 1)
    opened = GraphBackend(tmp_path / "m.onnx", 1, allow_loops=True)
    assert [spec.name for spec in opened.signature.inputs] == ["n", "x"]
    assert ModelSettings(onnx=tmp_path / "m.onnx", allow_loops=True).allow_loops
    with pytest.raises(SettingError, match="--allow-loops needs --onnx"):
        ModelSettings(bundle=tmp_path, allow_loops=True)


def test_weights_behind_a_link_out_of_the_folder_are_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    weights = numpy_helper.from_array(np.ones((3, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "main",
        [info("x", TensorProto.FLOAT, ["n", 3])],
        [info("y", TensorProto.FLOAT, ["n", 4])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(
        model, folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    GraphBackend(folder / "m.onnx", 1)
    (folder / "w.bin").rename(tmp_path / "w.bin")
    (folder / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(BundleError, match="next to it"):
        GraphBackend(folder / "m.onnx", 1)
