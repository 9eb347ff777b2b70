"""The graph of one step, run in a bare loop, gives the model's tokens, confidences and states."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper

from edge_runtime import contract
from edge_runtime.metrics import SEQUENCE_KINDS
from export.errors import GraphError
from export.exporters import cause_of
from export.language.gate import append_sequence_gate
from export.language.step import Cache, _can_fuse, export_step
from train.models.untrained import Shape, trained_tokenizer, untrained_language_model

# (layers, window): the longest prompt has 13 tokens; every other layer of gemma2 has a window.
ARCHITECTURES = {
    "gemma": (1, None),
    "gemma2": (2, 8),
    "llama": (2, None),
    "gpt2": (1, None),
    "qwen2": (1, None),
    "mistral": (1, 8),
}
PROMPTS = ["the sky:", "not the sea but the colour of the grass in May:", "red"]
STEPS = 9


def session(model):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options)


def start(rows, caches):
    state = {
        "past.confidence": np.zeros(rows, np.float32),
        "past.token_count": np.zeros(rows, np.int64),
        "past.active": np.ones(rows, np.bool_),
    }
    return {**state, **caches}


def fed_back(found):
    """Return the feeds of the next step: all the work of a binding."""
    feeds = {
        name.replace("present.", "past."): value
        for name, value in found.items()
        if name.startswith("present.")
    }
    feeds["attention_mask"] = feeds.pop("past.attention_mask")
    return {**feeds, "input_ids": found["next_token"][:, None]}


def run(opened, feeds, steps):
    names = [output.name for output in opened.get_outputs()]
    found = []
    for _ in range(steps):
        found.append(dict(zip(names, opened.run(None, feeds), strict=True)))
        feeds = fed_back(found[-1])
    return found


# The gate alone, behind logits as inputs: its arithmetic against numpy.


def gate_of(kind, *, ends=(7,), threshold=-1.0):
    """Return the gate as a graph whose logits are an input."""
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"])
    given = helper.make_tensor_value_info("given", TensorProto.FLOAT, ["batch", 10])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["given"], ["logits"])],
        "step",
        [mask, given],
        [logits],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    append_sequence_gate(model, kind=kind, threshold=threshold, ends=ends, pad=3)
    return model


def gated(kind, logits, **settings):
    """Feed logits float [steps, rows, 10] step by step; return what each step gives."""
    opened, rows = session(gate_of(kind, **settings)), len(logits[0])
    names = [output.name for output in opened.get_outputs()]
    feeds = start(rows, {"attention_mask": np.ones((rows, 2), np.int64)})
    found = []
    for step in logits:
        fed = {k: v for k, v in feeds.items() if k != "input_ids"}
        values = opened.run(None, {**fed, "given": step.astype(np.float32)})
        found.append(dict(zip(names, values, strict=True)))
        feeds = fed_back(found[-1])
    return found


def by_hand(kind, logits, counted):
    """Return each row's confidence in float64, from all its logits at once."""
    from edge_runtime import metrics

    z = logits.transpose(1, 0, 2).astype(np.float64)
    log_p = z - z.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    return metrics.sequence_confidence(
        kind,
        neg_entropy=(np.exp(log_p) * log_p).sum(-1),
        logprob=log_p.max(-1),
        counted=counted,
    )


@pytest.mark.parametrize("kind", SEQUENCE_KINDS)
def test_the_running_confidence_is_that_of_the_tokens_so_far(kind, generator):
    logits = 3 * generator.standard_normal((5, 4, 10))
    logits[..., 7] = -9  # no end
    found = gated(kind, logits)
    for steps in range(1, 6):
        wanted = by_hand(kind, logits[:steps], np.ones((4, steps), bool))
        np.testing.assert_allclose(found[steps - 1]["confidence"], wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found[steps - 1]["present.token_count"], [steps] * 4)


@pytest.mark.parametrize("kind", SEQUENCE_KINDS)
def test_a_row_that_ended_keeps_its_confidence_and_gives_padding(kind, generator):
    logits = generator.standard_normal((4, 2, 10))
    logits[..., 7] = -9
    logits[1, 0, 7] = 9  # the first row ends at its second token
    found = gated(kind, logits)
    assert [list(step["present.active"]) for step in found] == [[True, True], *[[False, True]] * 3]
    assert found[1]["next_token"][0] == 7
    assert [step["next_token"][0] for step in found[2:]] == [3, 3]
    assert list(found[3]["present.token_count"]) == [2, 4]
    assert found[3]["confidence"][0] == found[1]["confidence"][0]
    counted = np.array([[True, True, False, False], [True] * 4])
    np.testing.assert_allclose(
        found[3]["confidence"], by_hand(kind, logits, counted), rtol=1e-5, atol=1e-6
    )


def test_any_of_several_ends_ends(generator):
    logits = generator.standard_normal((1, 3, 10))
    for row, token in enumerate((2, 7, 5)):
        logits[0, row, token] = 9
    (found,) = gated(contract.NEG_ENTROPY, logits, ends=(2, 7))
    assert list(found["present.active"]) == [False, False, True]


@pytest.mark.parametrize("kind", SEQUENCE_KINDS)
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_nan_in_any_token_defers(kind, step, generator):
    logits = generator.standard_normal((3, 2, 10))
    logits[..., 7] = -9
    logits[step, 0, 4] = np.nan
    last = gated(kind, logits, threshold=-1e30)[-1]
    assert np.isnan(last["confidence"][0])
    assert list(last["defer"]) == [True, False]


@pytest.mark.parametrize("kind", SEQUENCE_KINDS)
def test_impossible_tokens_are_no_nan(kind):
    logits = np.full((2, 1, 10), -np.inf)
    logits[:, 0, 4] = 1.0
    last = gated(kind, logits, threshold=-1e30)[-1]
    assert last["confidence"][0] == (1.0 if kind in {"min_prob", "max_softmax"} else 0.0)
    assert not last["defer"][0]


def test_the_threshold_decides_and_may_be_fed(generator):
    logits = generator.standard_normal((1, 50, 10))
    (found,) = gated(contract.NEG_ENTROPY, logits, threshold=-2.0)
    np.testing.assert_array_equal(found["defer"], ~(found["confidence"] >= np.float32(-2.0)))
    assert 0 < found["defer"].sum() < 50
    opened = session(gate_of(contract.NEG_ENTROPY))
    assert [n.name for n in opened.get_overridable_initializers()] == ["threshold"]


def test_a_graph_that_is_not_a_decoder_is_refused():
    with pytest.raises(GraphError, match="expected one of neg_entropy"):
        gate_of("margin")
    with pytest.raises(GraphError, match="at least one end-of-sequence token"):
        gate_of(contract.NEG_ENTROPY, ends=())
    graph = helper.make_graph([], "other", [], [])
    with pytest.raises(GraphError, match="a decoder whose first output is 'logits'"):
        append_sequence_gate(
            onnx.ModelProto(graph=graph), kind="min_prob", threshold=0, ends=(1,), pad=0
        )


# The whole step of real architectures.


@pytest.fixture(scope="module")
def tokenizer():
    return trained_tokenizer([*PROMPTS, " red", " green", " blue"], 300)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_graph_decodes_as_transformers_does(architecture, tokenizer, tmp_path):
    """Left padding, grouped heads, biases, soft-capping and windows that are passed included."""
    layers, window = ARCHITECTURES[architecture]
    shape = Shape(
        width=32,
        layers=layers,
        heads=4,
        kv_heads=4 if architecture == "gpt2" else 2,
        inner=64,
        context=64,
        window=window,
    )
    lm = untrained_language_model(architecture, shape, tokenizer, seed=3)
    with torch.no_grad():
        for name, values in lm.model.named_parameters():
            if values.ndim > 1:
                values.mul_(4.0)  # sharper, so that answers differ
            elif name.endswith("bias"):
                values.copy_(torch.linspace(-0.5, 0.5, len(values)))
    file = tmp_path / "step.onnx"
    cache = export_step(lm, file)
    assert cache == Cache(layers=layers, heads=shape.kv_heads, size=8)
    attends = sum(node.op_type == "Attention" for node in onnx.load(file).graph.node)
    # The operator caps after it masks: a capped model attends by operators of its own.
    assert attends == (0 if architecture == "gemma2" else shape.layers)
    encoded = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    longest = max(map(len, encoded))
    assert longest > 8
    caches = {n: np.zeros((3, cache.heads, 0, 8), np.float32) for n in cache.names("past.")}
    feeds = start(3, caches) | {
        "input_ids": np.array([[0] * (longest - len(ids)) + ids for ids in encoded]),
        "attention_mask": np.array([[0] * (longest - len(i)) + [1] * len(i) for i in encoded]),
    }
    wanted = lm.generate(PROMPTS, STEPS)
    # The arithmetic of a kind does not depend on the model.
    for kind in SEQUENCE_KINDS if architecture == "llama" else [contract.NEG_ENTROPY]:
        model = onnx.load(file)
        append_sequence_gate(model, kind=kind, threshold=-1.0, ends=lm.ends, pad=0)
        found = run(session(model), feeds, STEPS)
        tokens = np.stack([s["next_token"] for s in found], axis=1)[:, : wanted.tokens.shape[1]]
        np.testing.assert_array_equal(tokens[wanted.counted], wanted.tokens[wanted.counted])
        np.testing.assert_allclose(found[-1]["confidence"], wanted.confidence(kind), atol=1e-5)
        np.testing.assert_array_equal(found[-1]["present.token_count"], wanted.counted.sum(1))


@pytest.mark.parametrize("window", [8, None])
def test_a_model_that_hides_its_window_keeps_its_own_attention(window, tokenizer):
    """transformers masks positions outside the window too, but the operator gets another mask."""
    shape = Shape(width=32, layers=2, heads=4, kv_heads=2, inner=64, context=64, window=8)
    lm = untrained_language_model("qwen2", shape, tokenizer)
    assert lm.model.model.layers[1].self_attn.sliding_window == 8
    lm.model.model.layers[1].self_attn.sliding_window = window
    assert _can_fuse(lm, Cache.of(lm.model)) == (window is not None)


def test_the_cause_of_a_failed_trace_is_one_line():
    """The report of torch.onnx starts with advice in colours and ends with the cause."""
    report = (
        "Failed to export. \x1b[96mThis is step 1/3\x1b[0m of exporting. Next steps:\n- Modify\n\n"
        "## Exception summary\n\n<class 'ValueError'>: no \x1b[96mgraph\x1b[0m\n  for this\n"
    )
    assert cause_of(RuntimeError(report)) == "<class 'ValueError'>: no graph for this"
    assert cause_of(ValueError("plain\nwords")) == "plain words"
