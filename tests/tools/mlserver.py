"""Model repositories for MLServer: with the example runtime, and with foreign graphs."""

import shutil

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save
from tools.processes import ROOT

from benchmarks.serving import mlserver

RUNTIME = ROOT / "examples" / "mlserver" / "gatekeeper_runtime.py"
GENERIC = ROOT / "benchmarks" / "serving" / "mlserver_runtime.py"


def add_contract_model(folder, name, onnx_file, labels, **settings):
    """Add a model that answers by the gate contract."""
    extra = {"labels": labels, "threads": 1}
    _add(folder / name, onnx_file, RUNTIME, "GatekeeperRuntime", extra, settings)


def add_foreign_model(folder, name, onnx_file, **settings):
    """Add a model with the graph's own inputs and outputs."""
    _add(folder / name, onnx_file, GENERIC, "OnnxRuntime", {"threads": 1}, settings)


def _add(place, onnx_file, runtime, implementation, extra, settings):
    place.mkdir(parents=True)
    shutil.copy(onnx_file, place / "model.onnx")
    shutil.copy(runtime, place)
    parameters = {"uri": "./model.onnx", "extra": extra}
    mlserver.write_model(
        place, f"{runtime.stem}.{implementation}", parameters=parameters, **settings
    )


def write_word_counter(file, words):
    """Write a classifier of texts as ONNX, including its tokenizer.

    The graph takes `text` [n] and returns `prediction` and `confidence` [n].

    Args:
        file: The file.
        words: The words of each class.
    """
    pool = [word for group in words for word in group]
    owners = [place for place, group in enumerate(words) for _ in group]
    weights = 2 * np.eye(len(words), dtype=np.float32)[owners]
    contrib = {"domain": "com.microsoft"}
    nodes = [
        helper.make_node(
            "Tokenizer",
            ["text"],
            ["words"],
            mark=0,
            pad_value="",
            mincharnum=1,
            separators=[" "],
            **contrib,
        ),
        helper.make_node(
            "TfIdfVectorizer",
            ["words"],
            ["counts"],
            mode="TF",
            min_gram_length=1,
            max_gram_length=1,
            max_skip_count=0,
            ngram_counts=[0],
            ngram_indexes=list(range(len(pool))),
            pool_strings=pool,
        ),
        helper.make_node("MatMul", ["counts", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
        helper.make_node("ReduceMax", ["probabilities"], ["confidence"], axes=[1], keepdims=0),
        helper.make_node("ArgMax", ["probabilities"], ["prediction"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("text", TensorProto.STRING, ["n"])],
        [
            helper.make_tensor_value_info("prediction", TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["n"]),
        ],
        [numpy_helper.from_array(weights, "weights")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=9), file)
    return file
