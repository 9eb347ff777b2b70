"""A second look: the graph alone judges rows near the threshold by two views."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from edge_runtime import contract
from export.classifier.gate import append_gate
from export.classifier.second_look import set_band
from export.errors import GraphError
from export.session import open_graph

pytestmark = pytest.mark.once

INF, NAN = float("inf"), float("nan")


def pixels_graph(classes=3, element=TensorProto.FLOAT, nodes=()):
    """A model whose logits are the first `classes` pixels of a picture of one line."""
    slices = [helper.make_node("Slice", ["lines", "0", "classes", "1"], ["logits"])]
    constants = {"0": [0], "1": [1], "classes": [classes]}
    return helper.make_model(
        helper.make_graph(
            [*(nodes or [helper.make_node("Flatten", ["pixel_values"], ["lines"])]), *slices],
            "model",
            [helper.make_tensor_value_info("pixel_values", element, ["n", 1, 1, "width"])],
            [helper.make_tensor_value_info("logits", element, ["n", classes])],
            [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def session_with_band(low, high, model=None, *, threshold=0.5, emit="none"):
    """Return a session over a gate that looks again from `low` to `high`."""
    model = model or pixels_graph()
    append_gate(
        model, kind=contract.MAX_SOFTMAX, threshold=threshold, view=contract.MIRROR, emit=emit
    )
    set_band(model, low, high)
    return open_graph(model)


def lines(*probabilities):
    """Return pictures whose softmax is exactly these rows."""
    return np.log(np.array(probabilities, np.float32))[:, None, None, :]


def answers(session, pictures):
    return session.run(contract.GATE_OUTPUTS, {"pixel_values": pictures})


# Reversed, the rows give their own predictions 0.1, 0.2 (the middle one) and 0.05.
THREE = lines([0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.05, 0.15, 0.8])


def test_the_confidence_is_the_mean_of_both_views_of_the_first_views_prediction():
    prediction, confidence, defer = answers(session_with_band(-INF, INF), THREE)
    assert prediction.tolist() == [0, 0, 2]
    np.testing.assert_allclose(confidence, [0.35, 0.35, 0.425], atol=1e-6)
    assert defer.all()  # all of them are under 0.5 now


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.55, 0.7, [0.35, 0.5, 0.8]),
        (0.45, 0.7, [0.35, 0.35, 0.8]),
        (0.7, INF, [0.6, 0.5, 0.425]),
        (0.61, 0.79, [0.6, 0.5, 0.8]),
        (INF, -INF, [0.6, 0.5, 0.8]),
        (NAN, NAN, [0.6, 0.5, 0.8]),
    ],
)
def test_only_rows_in_the_band_are_looked_at_again(low, high, expected):
    session = session_with_band(low, high)
    np.testing.assert_allclose(answers(session, THREE)[1], expected, atol=1e-6)
    for row in range(3):  # alone, and in another order, they are judged alike
        alone = answers(session, THREE[[row]])[1]
        np.testing.assert_allclose(alone, expected[row : row + 1], atol=1e-6)
    np.testing.assert_allclose(answers(session, THREE[::-1])[1], expected[::-1], atol=1e-6)


def test_the_limits_belong_to_the_band():
    first = answers(session_with_band(INF, -INF), THREE)[1]
    confidence = answers(session_with_band(first[1], first[0]), THREE)[1]
    np.testing.assert_allclose(confidence, [0.35, 0.35, 0.8], atol=1e-6)
    inside = np.nextafter(first[1], np.float32(1)), np.nextafter(first[0], np.float32(0))
    np.testing.assert_array_equal(answers(session_with_band(*inside), THREE)[1], first)


def test_a_nan_of_either_view_defers_its_own_row_alone():
    # A fourth pixel, which only the mirrored picture shows to the model.
    pictures = np.concatenate([THREE, np.full((3, 1, 1, 1), -INF, np.float32)], axis=-1)
    pictures[0, ..., 0] = NAN
    pictures[1, ..., 3] = NAN
    session = session_with_band(-INF, INF, threshold=-1.0)
    _, confidence, defer = answers(session, pictures)
    assert np.isnan(confidence).tolist() == [True, True, False]
    assert defer.tolist() == [True, True, False]
    # Outside the band the fourth pixel has no effect.
    _, _, defer = answers(session_with_band(INF, -INF, threshold=-1.0), pictures)
    assert defer.tolist() == [True, False, False]


@settings(max_examples=60, deadline=None)
@given(
    z=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.just(4)), elements=st.floats(-9, 9, width=32)
    ),
    limits=st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)),
)
def test_the_graph_decides_as_torch_does(four_classes, z, limits):
    model, pictures = four_classes, z[:, None, None, :]
    set_band(model, *limits)
    prediction, confidence, _ = answers(open_graph(model), pictures)
    logits = torch.from_numpy(z).double()
    first, chosen = logits.softmax(-1).max(-1)
    second = logits.flip(-1).softmax(-1).gather(-1, chosen[:, None])[:, 0]
    inside = (first >= limits[0]) & (first <= limits[1])
    top = logits.topk(2).values
    clear = top[:, 0] - top[:, 1] > 1e-5
    for limit in limits:
        clear &= (first - limit).abs() > 1e-5
    expected = torch.where(inside, (first + second) / 2, first)
    rows = clear.numpy()
    np.testing.assert_allclose(confidence[rows], expected[clear], atol=2e-6)
    np.testing.assert_array_equal(prediction[rows], chosen[clear])


@pytest.fixture(scope="module")
def four_classes():
    model = pixels_graph(4)
    append_gate(model, kind=contract.MAX_SOFTMAX, threshold=0.5, view=contract.MIRROR)
    return model


def test_what_is_emitted_is_the_first_views():
    session = session_with_band(-INF, INF, emit="probabilities")
    (probabilities,) = session.run([contract.PROBABILITIES], {"pixel_values": THREE})
    np.testing.assert_allclose(probabilities, np.exp(THREE[:, 0, 0]), atol=1e-6)


def test_half_precision_logits_are_looked_at_twice():
    session = session_with_band(-INF, INF, pixels_graph(element=TensorProto.FLOAT16))
    confidence = answers(session, THREE.astype(np.float16))[1]
    np.testing.assert_allclose(confidence, [0.35, 0.35, 0.425], atol=1e-3)


def test_a_model_with_branches_of_its_own_runs_again():
    """Its condition and both branches depend on the input, or the copy would answer as before."""
    flat = helper.make_node("Flatten", ["pixel_values"], ["flat"])
    condition = helper.make_node("Greater", ["wanted", "classes"], ["is_wide"])
    count = helper.make_node("Shape", ["flat"], ["wanted"], start=1)
    kind = helper.make_tensor_value_info("same", TensorProto.FLOAT, ["n", "width"])
    other = helper.make_tensor_value_info("negative", TensorProto.FLOAT, ["n", "width"])
    branch = helper.make_node(
        "If",
        ["is_wide"],
        ["lines"],
        else_branch=helper.make_graph(
            [helper.make_node("Identity", ["flat"], ["same"])], "same", [], [kind]
        ),
        then_branch=helper.make_graph(
            [helper.make_node("Neg", ["flat"], ["negative"])], "negative", [], [other]
        ),
    )
    model = pixels_graph(nodes=[flat, count, condition, branch])
    confidence = answers(session_with_band(-INF, INF, model), THREE)[1]
    np.testing.assert_allclose(confidence, [0.35, 0.35, 0.425], atol=1e-6)


def two_inputs():
    model = pixels_graph()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["n"]))
    return model


def of_tokens():
    model = pixels_graph()
    shape = model.graph.input[0].type.tensor_type.shape
    del shape.dim[2:]
    return model


@pytest.mark.parametrize(
    ("model", "kind", "view", "words"),
    [
        (pixels_graph, contract.NEG_ENTROPY, contract.MIRROR, "max_softmax for a second look"),
        (pixels_graph, contract.MAX_SOFTMAX, "upside-down", "expected mirror as second view"),
        (two_inputs, contract.MAX_SOFTMAX, contract.MIRROR, "got pixel_values, more"),
        (of_tokens, contract.MAX_SOFTMAX, contract.MIRROR, "expected one input"),
    ],
)
def test_a_graph_that_cannot_be_looked_at_twice_is_refused(model, kind, view, words):
    with pytest.raises(GraphError, match=words):
        append_gate(model(), kind=kind, threshold=0.5, view=view)


def test_a_band_needs_a_second_look():
    model = pixels_graph()
    append_gate(model, kind=contract.MAX_SOFTMAX, threshold=0.5)
    with pytest.raises(GraphError, match="without a second look"):
        set_band(model, 0.1, 0.2)
