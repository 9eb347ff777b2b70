"""Measures the cost of the gate in the graph and of the Gatekeeper loss in training."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

from benchmarks.commands.figures import OverheadSettings
from benchmarks.figures import Figure, write_figures
from benchmarks.timing import paired_medians_us
from benchmarks.untrained import SIDE, random_picture, small_cnn_bundle
from edge_runtime import contract
from edge_runtime.environment import hardware
from export.classifier.gate import append_gate
from export.classifier.preprocessing import fuse_preprocessing
from export.sources.checkpoint import image_graph
from train import gatekeeper_loss
from train.models import build, open_checkpoint

_GATE_LOGITS = 256_000
_OPSET = 18
# Relative to the same log-sum-exp with its maximum from TopK, as exporters often write it.
_GATE_LIMIT = 300 / 357
_ROUNDS = 20
_LOSS_LIMIT = 1.03
_ALPHA = 0.5
_BATCH, _SIDE, _CLASSES = 128, 32, 10
_SEQUENCES, _TOKENS, _VOCABULARY = 32, 128, 32_000
_STEPS = 5
_LARGE_ROUNDS = 7  # a call takes seconds
_Loss = Callable[[Tensor, Tensor], Tensor]
_LOSSES: dict[str, _Loss] = {
    "cross-entropy": lambda logits, labels: F.cross_entropy(
        logits.flatten(0, -2), labels.flatten()
    ),
    "ours": lambda logits, labels: gatekeeper_loss(logits, labels, _ALPHA),
}


def measure(settings: OverheadSettings) -> None:
    """Print every figure, and write them to a file if one is named."""
    with tempfile.TemporaryDirectory() as folder:
        figures = [
            _gate(Path(folder), settings),
            entropy_of_large_vocabulary(settings.seed),
            training_step(settings.seed, settings.rounds),
            loss_of_large_vocabulary(settings.seed),
        ]
    machine = hardware()
    print(f"{machine['cores']} cores of {machine['processor']}; medians, alternating rounds")
    for figure in figures:
        print(figure.line())
    if settings.out is not None:
        write_figures(settings.out, figures)


def _gate(folder: Path, settings: OverheadSettings) -> Figure:
    bundle = small_cnn_bundle(folder, settings.seed)
    plain = _open(str(_bare_graph(folder)))
    gated = _open(str(bundle / "model.onnx"))
    feeds = {contract.IMAGE: random_picture(SIDE, settings.seed)[None]}
    times = paired_medians_us(
        {"plain": lambda: plain.run(None, feeds), "gated": lambda: gated.run(None, feeds)},
        rounds=settings.rounds,
    )
    return Figure(
        "fused graph / graph without the gate",
        times["gated"] / times["plain"],
        1.08,
        "x",
        f"{times['gated']:.1f} and {times['plain']:.1f} us, 1 thread",
    )


def _bare_graph(folder: Path) -> Path:
    """Write the graph of the same checkpoint with preprocessing but without the gate."""
    checkpoint = open_checkpoint(folder / "small")
    model = image_graph(checkpoint, (SIDE, SIDE), folder).model
    fuse_preprocessing(model, checkpoint.processor, (SIDE, SIDE))
    onnx.save(model, folder / "bare.onnx")
    return folder / "bare.onnx"


def entropy_of_large_vocabulary(seed: int) -> Figure:
    """Time the mean negative entropy of one row of logits on one thread."""
    logits = np.random.default_rng(seed).normal(size=(1, _GATE_LOGITS)).astype(np.float32) * 3
    ours = _identity()
    append_gate(ours, kind=contract.NEG_ENTROPY, threshold=0.0)
    times = paired_medians_us(
        {"ours": _call(ours, logits), "peer": _call(_with_top_k(ours), logits)},
        rounds=_ROUNDS,
        calls_a_round=5,
    )
    return Figure(
        "entropy gate / the same with TopK",
        times["ours"] / times["peer"],
        _GATE_LIMIT,
        "x",
        f"{times['ours']:.0f} and {times['peer']:.0f} us, {_GATE_LOGITS} logits, 1 thread",
    )


def _identity() -> onnx.ModelProto:
    """Return a model whose logits are its input, so that only the gate is timed."""
    shape: list[str | int] = ["batch", _GATE_LOGITS]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["logits"])],
        "logits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])


def _with_top_k(model: onnx.ModelProto) -> onnx.ModelProto:
    peer = onnx.ModelProto()
    peer.CopyFrom(model)
    peer.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "peer/one"))
    (maximum,) = (node for node in peer.graph.node if node.op_type == "ReduceMax")
    top = helper.make_node(
        "TopK", [maximum.input[0], "peer/one"], [maximum.output[0], "peer/index"], axis=-1
    )
    maximum.CopyFrom(top)
    return peer


def _call(model: onnx.ModelProto, logits: Any) -> Callable[[], Any]:
    session = _open(model.SerializeToString())
    outputs = [contract.CONFIDENCE, contract.DEFER]
    return lambda: session.run(outputs, {"input": logits})


def _open(model: str | bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def training_step(seed: int, rounds: int) -> Figure:
    """Time whole steps of a SmallCNN: forward, loss, backward, update."""
    # Single steps in turn: another process may slow one of two blocks of steps.
    times = paired_medians_us(
        {name: _step(loss, seed) for name, loss in _LOSSES.items()},
        rounds=_STEPS * rounds,
        calls_a_round=1,
    )
    return Figure(
        "step with our loss / with cross-entropy",
        times["ours"] / times["cross-entropy"],
        _LOSS_LIMIT,
        "x",
        f"{times['ours'] / 1e3:.2f} and {times['cross-entropy'] / 1e3:.2f} ms, SmallCNN, {_BATCH} "
        f"pictures of {_SIDE} x {_SIDE}",
    )


def _step(loss: _Loss, seed: int) -> Callable[[], None]:
    labels = [str(i) for i in range(_CLASSES)]
    model = build("small-cnn", labels=labels, image_size=(_SIDE, _SIDE), seed=seed).model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.randn(_BATCH, 3, _SIDE, _SIDE, generator=draws)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, _CLASSES, (_BATCH,), generator=draws)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(pixel_values=pixels).logits, targets).backward()
        optimizer.step()

    return step


def loss_of_large_vocabulary(seed: int) -> Figure:
    """Time the loss and its gradient on the logits of a language model."""
    draws = torch.Generator().manual_seed(seed)
    logits = torch.randn(_SEQUENCES, _TOKENS, _VOCABULARY, generator=draws).requires_grad_()
    labels = torch.randint(0, _VOCABULARY, (_SEQUENCES, _TOKENS), generator=draws)

    def call(loss: _Loss) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(logits, labels), logits)

    times = paired_medians_us(
        {name: call(loss) for name, loss in _LOSSES.items()}, rounds=_LARGE_ROUNDS, calls_a_round=1
    )
    return Figure(
        "our loss / cross-entropy, with gradient",
        times["ours"] / times["cross-entropy"],
        _LOSS_LIMIT,
        "x",
        f"{times['ours'] / 1e6:.2f} and {times['cross-entropy'] / 1e6:.2f} s, logits "
        f"[{_SEQUENCES}, {_TOKENS}, {_VOCABULARY}]",
    )
