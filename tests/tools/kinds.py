"""Kinds of classifiers as people have them: pictures, texts, numbers, series and sound."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tools.tables import flowers, write_table

NAMES = ("left", "right", "up")
ROWS = 60


@dataclass(frozen=True)
class Kind:
    """A model in a file.

    Attributes:
        source: The words of `export` that name the model.
        data: What `--calibrate` and `--data` name, or None for a threshold by hand.
        inputs: Some inputs, one row each.
        belief: Function from inputs to the probabilities [n, classes] of the model by itself.
        takes: The input of the bundle.
    """

    source: tuple[str, ...]
    data: str | None
    inputs: Any
    belief: Callable[[Any], Any]
    takes: str = "float32"
    more: tuple[str, ...] = field(default=())


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _run(path, x, *, by_row=False):
    """Return the last output of the file as it is, [n, columns]."""
    session = ort.InferenceSession(path)
    name = session.get_inputs()[0].name
    parts = [
        session.run(None, {name: part})[-1] for part in (np.split(x, len(x)) if by_row else [x])
    ]
    rows = [list(one.values()) for one in parts[0]] if isinstance(parts[0], list) else parts
    return np.asarray(rows, np.float64).reshape(len(x), -1)


class Net:
    """A graph of one input and a last layer of three columns, with what stands behind it."""

    def __init__(self, shape, *, classes=3, opset=17, batch="N", seed=0):
        self.draws = np.random.default_rng(seed)
        self.nodes, self.weights = [], []
        self.shape, self.batch, self.opset, self.classes = shape, batch, opset, classes
        self.value = "x"

    def add(self, operator, *weights, **attributes):
        number = len(self.nodes)
        names = [f"w{number}_{i}" for i in range(len(weights))]
        self.weights += [numpy_helper.from_array(w, n) for w, n in zip(weights, names, strict=True)]
        out = f"v{number}"
        self.nodes.append(helper.make_node(operator, [self.value, *names], [out], **attributes))
        self.value = out
        return self

    def dense(self, inputs, outputs=None, *, scale=1.0):
        outputs = outputs or self.classes
        weights = scale * self.draws.normal(size=(inputs, outputs))
        return self.add("MatMul", weights.astype("f4")).add(
            "Add", self.draws.normal(size=outputs).astype("f4")
        )

    def convolution(self, *shape, **attributes):
        return self.add("Conv", self.draws.normal(size=shape).astype("f4"), **attributes)

    def write(self, path, *, rank=2):
        take = helper.make_tensor_value_info("x", TensorProto.FLOAT, [self.batch, *self.shape])
        shape = [self.batch, self.classes][:rank]
        give = helper.make_tensor_value_info(self.value, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, "net", [take], [give], self.weights)
        opset = helper.make_opsetid("", self.opset)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=7), path)
        return path


def _onnx(folder, path, x, belief, **more):
    """Return the kind of an ONNX file without class names."""
    labels = folder / "names.txt"
    count = belief(x[:1]).shape[1]
    labels.write_text("\n".join(NAMES[:count]))
    return Kind(("--onnx", str(path), "--labels", str(labels)), None, x, belief, **more)


def vectors(folder, finish, read, **sizes):
    """A net of five numbers with a last operator, and how its output is read as probabilities."""
    net = Net([5], **sizes).dense(5, 8).add("Relu").dense(8)
    path = finish(net).write(folder / "m.onnx")
    x = np.random.default_rng(1).normal(size=(ROWS, 5)).astype("f4")
    is_single = sizes.get("batch") == 1
    return _onnx(folder, path, x, lambda rows: read(_run(path, rows, by_row=is_single)))


def logits(folder):
    return vectors(folder, lambda net: net, softmax)


def probabilities(folder):
    return vectors(folder, lambda net: net.add("Softmax", axis=-1), lambda p: p)


def log_probabilities(folder):
    return vectors(folder, lambda net: net.add("LogSoftmax", axis=-1), np.exp)


def _two(z):
    p = 1 / (1 + np.exp(-z))
    return np.concatenate([1 - p, p], axis=1)


def single_logit(folder):
    return vectors(folder, lambda net: net, _two, classes=1)


def single_probability(folder):
    return vectors(
        folder, lambda n: n.add("Sigmoid"), lambda p: np.concatenate([1 - p, p], 1), classes=1
    )


def batch_of_one(folder):
    """It subtracts the mean of all its logits, so that rows in one batch would see each other."""
    return vectors(folder, lambda net: net.add("Sub", np.zeros(1, "f4")), softmax, batch=1)


def opset_11(folder):
    return vectors(folder, lambda net: net.add("Softmax", axis=1), lambda p: p, opset=11)


def grey_pictures(folder):
    net = Net([1, 8, 8]).convolution(4, 1, 3, 3).add("Relu").add("GlobalAveragePool")
    path = net.add("Flatten", axis=1).dense(4).write(folder / "m.onnx")
    x = np.random.default_rng(1).normal(size=(ROWS, 1, 8, 8)).astype("f4")
    return _onnx(folder, path, x, lambda rows: softmax(_run(path, rows)))


def series(folder):
    """Any number of steps of two channels, [batch, time, channels]."""
    net = Net(["time", 2]).add("Transpose", perm=[0, 2, 1]).convolution(4, 2, 3).add("Relu")
    path = net.add("GlobalAveragePool").add("Flatten", axis=1).dense(4).write(folder / "m.onnx")
    x = np.random.default_rng(1).normal(size=(ROWS, 40, 2)).astype("f4")
    return _onnx(folder, path, x, lambda rows: softmax(_run(path, rows)))


def waveform(folder):
    """Samples of sound, [batch, samples]."""
    net = Net([800]).add("Unsqueeze", np.array([1])).convolution(4, 1, 16, strides=[8]).add("Relu")
    path = net.add("GlobalMaxPool").add("Flatten", axis=1).dense(4).write(folder / "m.onnx")
    x = np.random.default_rng(1).normal(size=(ROWS, 800)).astype("f4")
    return _onnx(folder, path, x, lambda rows: softmax(_run(path, rows)))


def _table(folder, model, **options):
    path = write_table(model, folder / "m.onnx", **options)
    return Kind(("--onnx", str(path)), None, flowers()[0], lambda rows: _run(path, rows))


def logistic_regression(folder):
    return _table(folder, LogisticRegression())


def random_forest(folder):
    return _table(folder, RandomForestClassifier(5, max_depth=3, random_state=0), zipmap=False)


def vector_machine(folder):
    return _table(folder, make_pipeline(StandardScaler(), SVC(probability=True, random_state=0)))
