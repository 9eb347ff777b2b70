"""numpy, torch and the ONNX gate agree, and whatever is not a number defers."""

import math

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from edge_runtime import contract, metrics
from export.classifier.gate import append_gate
from export.errors import GraphError
from export.gate import set_threshold
from export.session import open_graph

pytestmark = pytest.mark.once

KINDS = [contract.MAX_SOFTMAX, contract.NEG_ENTROPY]
INF, NAN = float("inf"), float("nan")


def logits_graph(element=TensorProto.FLOAT, outputs=1):
    """A model that hands its input through as logits."""
    names = ["logits", "more"][:outputs]
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["z"], [name]) for name in names],
            "model",
            [helper.make_tensor_value_info("z", element, ["batch", "classes"])],
            [helper.make_tensor_value_info(name, element, ["batch", "classes"]) for name in names],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


@pytest.fixture(scope="module", params=KINDS)
def gate(request):
    model = logits_graph()
    append_gate(model, kind=request.param, threshold=-0.5, emit="probabilities")
    return request.param, open_graph(model)


LOGITS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 6)),
    elements=st.one_of(st.floats(-40, 40, width=32), st.just(-INF)),
)


def torch_confidence(kind, z):
    log_p = torch.from_numpy(z).double().log_softmax(-1)
    if kind == contract.MAX_SOFTMAX:
        return log_p.exp().amax(-1).numpy()
    return torch.special.xlogy(log_p.exp(), log_p.exp()).sum(-1).numpy()


@settings(max_examples=150, deadline=None)
@given(z=LOGITS)
def test_numpy_torch_and_onnx_agree(gate, z):
    kind, session = gate
    possible = np.isfinite(z).any(-1)
    _, confidence, defer, probabilities = session.run(None, {"z": z})
    ours = metrics.max_softmax(z) if kind == contract.MAX_SOFTMAX else metrics.neg_entropy(z)
    np.testing.assert_allclose(confidence[possible], ours[possible], atol=2e-6)
    np.testing.assert_allclose(ours[possible], torch_confidence(kind, z)[possible], atol=1e-9)
    np.testing.assert_array_equal(defer, ~(confidence >= np.float32(-0.5)))
    assert defer[~possible].all()
    np.testing.assert_allclose(probabilities[possible].sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "row", [[NAN, 0, 9], [9, 0, NAN], [0, NAN, 0], [INF, 0, 0], [0, INF, INF], [-INF] * 3]
)
@pytest.mark.parametrize("threshold", [-1e30, 0.3])
def test_what_is_not_a_number_defers(gate, row, threshold):
    _, session = gate
    sure = [50.0, 0.0, 0.0]
    z = np.array([sure, row, sure], np.float32)
    feeds = {"z": z, contract.THRESHOLD: np.array(threshold, np.float32)}
    (defer,) = session.run([contract.DEFER], feeds)
    assert defer[1]
    assert not defer[[0, 2]].any() or threshold == 0.3


def test_the_first_of_equal_logits_is_the_prediction(gate):
    _, session = gate
    (prediction,) = session.run([contract.PREDICTION], {"z": np.array([[1, 2, 2]], np.float32)})
    assert prediction.tolist() == [1]
    assert prediction.dtype == np.int64


def test_confidence_on_the_threshold_is_answered_on_the_edge():
    model = logits_graph()
    append_gate(model, kind=contract.MAX_SOFTMAX, threshold=0.5)
    session = open_graph(model)
    z = np.zeros((1, 2), np.float32)  # both probabilities are exactly one half
    assert session.run([contract.DEFER], {"z": z})[0].tolist() == [False]
    above = np.array(np.nextafter(np.float32(0.5), np.float32(1)))
    assert session.run([contract.DEFER], {"z": z, contract.THRESHOLD: above})[0].tolist() == [True]


def test_the_threshold_has_a_default_and_is_not_a_required_input():
    model = logits_graph()
    append_gate(model, kind=contract.MAX_SOFTMAX, threshold=0.25)
    session = open_graph(model)
    assert [i.name for i in session.get_inputs()] == ["z"]
    assert [i.name for i in session.get_overridable_initializers()] == [contract.THRESHOLD]
    set_threshold(model, 0.75)
    (value,) = [i for i in model.graph.initializer if i.name == contract.THRESHOLD]
    assert onnx.numpy_helper.to_array(value) == np.float32(0.75)


def test_half_precision_logits_are_gated_in_float32():
    model = logits_graph(TensorProto.FLOAT16)
    append_gate(model, kind=contract.NEG_ENTROPY, threshold=0.0)
    (confidence,) = open_graph(model).run(
        [contract.CONFIDENCE], {"z": np.zeros((1, 4), np.float16)}
    )
    assert confidence.dtype == np.float32
    assert confidence[0] == pytest.approx(-math.log(4), abs=1e-6)


@pytest.mark.parametrize(
    ("model", "words"),
    [(logits_graph(outputs=2), "one output"), (logits_graph(TensorProto.INT64), "float32")],
)
def test_a_graph_that_cannot_be_gated_is_refused(model, words):
    with pytest.raises(GraphError, match=words):
        append_gate(model, kind=contract.MAX_SOFTMAX, threshold=0.5)
