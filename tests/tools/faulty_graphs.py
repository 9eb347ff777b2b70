"""A real ONNX graph that follows an order in each row: answer, fail, or take long."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ANSWER, RAISE, NOT_A_NUMBER, LOSE_ROW, WORK = range(5)
"""Orders of a row [order, number] of the graph's input; the answer is the row's number."""
_CALIBRATION_STEPS = 20_000


@dataclass(frozen=True)
class MoodyGraph:
    """The graph, and the speed of its loop on this machine.

    Attributes:
        path: The file.
        steps_per_s: Steps of its loop per second, at best.
    """

    path: Path
    steps_per_s: float

    def work(self, seconds):
        """Return a row that keeps the model busy for about this many seconds or longer."""
        return WORK, max(1, round(seconds * self.steps_per_s))


def write_moody_graph(path):
    """Write the graph and time it."""
    onnx.save(_model(), path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    row = np.array([(WORK, _CALIBRATION_STEPS)], np.int64)
    took_s = []
    for _ in range(5):
        begin = time.perf_counter()
        session.run(None, {"order": row})
        took_s.append(time.perf_counter() - begin)
    return MoodyGraph(path, _CALIBRATION_STEPS / min(took_s))


def _model():
    constants = {
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "beyond": np.array(99, np.int64),
        "nan": np.array(np.nan, np.float32),
        "zero_float": np.array(0, np.float32),
        "table": np.zeros(1, np.float32),
        "still": np.array(True),
        "start": np.zeros(64, np.float32),
    }
    constants |= {f"is{n}": np.array(n, np.int64) for n in (RAISE, NOT_A_NUMBER, LOSE_ROW, WORK)}
    node = helper.make_node
    nodes = [
        node("Gather", ["order", "zero"], ["orders"], axis=1),
        node("Gather", ["order", "one"], ["number"], axis=1),
        node("Cast", ["number"], ["value"], to=TensorProto.FLOAT),
        # An index beyond the table's end is an error of the run.
        node("Equal", ["orders", f"is{RAISE}"], ["raises"]),
        node("Where", ["raises", "beyond", "zero"], ["index"]),
        node("Gather", ["table", "index"], ["found"], axis=0),
        node("Equal", ["orders", f"is{NOT_A_NUMBER}"], ["is_nan"]),
        node("Where", ["is_nan", "nan", "value"], ["numbers"]),
        node("Equal", ["orders", f"is{WORK}"], ["works"]),
        node("Where", ["works", "number", "zero"], ["each"]),
        node("ReduceMax", ["each"], ["steps"], keepdims=0),
        node("Loop", ["steps", "still", "start"], ["end"], body=loop_body()),
        node("ReduceMax", ["end"], ["highest"], keepdims=0),
        node("Mul", ["highest", "zero_float"], ["nothing"]),
        node("Sum", ["numbers", "found", "nothing"], ["all"]),
        node("Equal", ["orders", f"is{LOSE_ROW}"], ["is_lost"]),
        node("Not", ["is_lost"], ["is_kept"]),
        node("Compress", ["all", "is_kept"], ["answer"], axis=0),
    ]
    graph = helper.make_graph(
        nodes,
        "moody",
        [helper.make_tensor_value_info("order", TensorProto.INT64, ["batch", 2])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def loop_body():
    """Return one step of the loop."""
    inputs = [
        helper.make_tensor_value_info("step", TensorProto.INT64, []),
        helper.make_tensor_value_info("continue", TensorProto.BOOL, []),
        helper.make_tensor_value_info("before", TensorProto.FLOAT, [64]),
    ]
    outputs = [
        helper.make_tensor_value_info("continues", TensorProto.BOOL, []),
        helper.make_tensor_value_info("after", TensorProto.FLOAT, [64]),
    ]
    nodes = [
        helper.make_node("Identity", ["continue"], ["continues"]),
        helper.make_node("Cos", ["before"], ["after"]),
    ]
    return helper.make_graph(nodes, "step", inputs, outputs)
