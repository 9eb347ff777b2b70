"""Makes a graph of logits smaller and faster with ONNX Runtime's quantizers.

The gate is appended afterwards and stays in float32. If it were quantized too, its confidence would
have only a few hundred values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from edge_runtime.files import one_line, scratch_folder
from export.errors import GraphError
from export.exporters import quiet
from export.graphs import copy_model, has_halves, sort_nodes

Kind = Literal["none", "fp16", "int8", "int8-dynamic", "int4"]
_MATRICES = ("MatMul", "Gemm")
_QUANTIZED = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulNBits"}
)
_BLOCK = 32  # weights that share a scale
_LARGE = 1 << 14  # weights from which a matrix gets smaller in 4 bits
_BATCH_BYTES = 1 << 18  # of input; the activations of all layers are many times that
_PERCENTILE = 99.999  # share of each activation inside its range
_STEM = 3  # convolutions that stay in float32: in a ResNet those up to the first residual sum
_STEM_SHARE = 1 / 6  # largest share of the convolutions, and of their multiplications
Pixels = npt.NDArray[np.float32]


def quantize(model: onnx.ModelProto, kind: Kind, pixels: Pixels | None = None) -> onnx.ModelProto:
    """Return a quantized copy of a graph; inputs and logits stay float32.

    Args:
        model: A graph float32 [batch, ...] -> logits [batch, classes].
        kind: `int8` fixes the ranges of activations on `pixels` (static QDQ, for convolutions);
            `int8-dynamic` measures them at run time, `int4` stores only weights in 4 bits (both for
            matrix products); `fp16` halves every weight.
        pixels: float32 [n, ...] as the graph takes them; required for `int8`.

    Raises:
        GraphError: The graph is in lower precision already, the quantizer cannot take it, or finds
            nothing in it to quantize.
    """
    if kind == "none":
        return model
    _require_float32(model, kind)
    try:
        with quiet(), scratch_folder() as scratch:
            quantized = _QUANTIZERS[kind](model, pixels, scratch)
    except GraphError:
        raise
    except Exception as error:  # noqa: BLE001 - the quantizers raise unrelated classes
        raise GraphError(
            f"expected a graph that --quantize {kind} can take, ONNX Runtime's quantizer failed "
            f"({type(error).__name__}: {one_line(error, 200)}): use another of "
            f"{', '.join(get_args(Kind))}"
        ) from None
    _require_change(model, quantized, kind)
    return quantized


def _require_float32(model: onnx.ModelProto, kind: str) -> None:
    halves = has_halves(model.graph)
    if halves or _QUANTIZED & {node.op_type for node in model.graph.node}:
        raise GraphError(
            f"expected a float32 model with --quantize {kind}, got one "
            f"{'in half precision' if halves else 'already quantized'}: leave out --quantize, or "
            "give the original"
        )


class _Batches(quantization.CalibrationDataReader):
    """Calibration inputs in batches, in the interface of the quantizer."""

    def __init__(self, value: onnx.ValueInfoProto, pixels: Pixels) -> None:
        name, size = value.name, max(1, _BATCH_BYTES // pixels[0].nbytes)
        if value.type.tensor_type.shape.dim[0].dim_value == 1:
            size = 1
        self._feeds = [{name: pixels[i : i + size]} for i in range(0, len(pixels), size)]
        self._batches = iter(self._feeds)

    def __len__(self) -> int:
        return len(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._batches = iter(self._feeds[start_index:end_index])

    def get_next(self) -> dict[str, Pixels] | None:
        return next(self._batches, None)


def _static(model: onnx.ModelProto, pixels: Pixels | None, scratch: Path) -> onnx.ModelProto:
    if pixels is None or not len(pixels):
        raise GraphError("expected inputs to fix the ranges of --quantize int8, got none: add data")
    prepared = _prepared(model, scratch)
    graph = onnx.load(prepared).graph
    quantization.quantize_static(
        str(prepared),
        str(scratch / "quantized.onnx"),
        _Batches(model.graph.input[0], pixels),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        # Unsigned activations: x86 has the fastest kernels for them, and ReLU is never below 0.
        activation_type=quantization.QuantType.QUInt8,
        # All 8 bits. ONNX Runtime advises 7 (reduce_range) for x86 without VNNI, whose sums may
        # saturate. With VNNI 7 bits cost flips (3.0 instead of 2.1 % on ResNet-20), and ARM does
        # not need them.
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=[*_stem(graph), *_tail(graph)],
        # The rarest values widen the steps of all others: without them 1.2 instead of 1.8 % of
        # ResNet-56's decisions flip. 99.99 % cuts off too much (SmallCNN: 1.5 instead of 1.0 %).
        calibrate_method=quantization.CalibrationMethod.Percentile,
        extra_options={
            "CalibPercentile": _PERCENTILE,
            "CalibTensorRangeSymmetric": False,  # half of the range would lie below ReLU's 0
            "CalibStridedMinMax": 1,  # batch by batch; otherwise it holds all activations at once
            # The last output is the logits: in 8 bits they would have only a few hundred values.
            "OpTypesToExcludeOutputQuantization": list(_MATRICES),
        },
    )
    return onnx.load(scratch / "quantized.onnx")


def _stem(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes at the front that stay in float32 because that is cheap.

    Errors of 8 bits there pass through all other layers: in ResNet-20 half of the variance that
    8-bit activations add to the confidences comes from the input and the first convolution.
    """
    convolutions = [i for i, node in enumerate(graph.node) if node.op_type == "Conv"]
    if len(convolutions) < 2:  # noqa: PLR2004 - a single one must be quantized
        return []
    # One in a short net, at any cost: 1.0 instead of 1.6 % of SmallCNN's decisions flip.
    count = min(_STEM, max(1, int(len(convolutions) * _STEM_SHARE)))
    costs = _multiplications(graph)
    # A ResNet-18 at 224 x 224 would run 2.5 instead of 3.4 times as fast, without need.
    if count > 1 and not sum(costs[:count]) < _STEM_SHARE * sum(costs):
        return []
    return [node.name for node in graph.node[: convolutions[count]]]


def _tail(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes behind the last matrix product, for example a softmax.

    They turn its result into logits, which in 8 bits would have only a few hundred values.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    found: dict[str, None] = {}
    waiting = [graph.output[0].name]
    while waiting:
        node = made_by.get(waiting.pop())
        if node is None or node.op_type in (*_MATRICES, "Conv") or node.name in found:
            continue
        found[node.name] = None
        waiting.extend(node.input)
    return [name for name in found if name]


def _multiplications(graph: onnx.GraphProto) -> list[int]:
    """Return the multiplications of each convolution for one input, 0 if its size is unknown."""
    maps = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    return [
        math.prod(maps.get(node.output[0], [0, 0])[1:])
        * math.prod(weights.get(node.input[1], [0, 0])[1:])
        for node in graph.node
        if node.op_type == "Conv"
    ]


def _dynamic(model: onnx.ModelProto, _: Pixels | None, scratch: Path) -> onnx.ModelProto:
    quantization.quantize_dynamic(
        str(_prepared(model, scratch)),
        str(scratch / "quantized.onnx"),
        # Without convolutions: with ranges measured at run time they are several times slower.
        # Gather reads an embedding, most of the weights of a small text classifier.
        op_types_to_quantize=[*_MATRICES, "Gather"],
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
    )
    return onnx.load(scratch / "quantized.onnx")


def _four_bits(model: onnx.ModelProto, _: Pixels | None, scratch: Path) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    prepared = onnx.load(_prepared(model, scratch))
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in prepared.graph.initializer}
    small = [
        node.name
        for node in prepared.graph.node
        if node.op_type == "MatMul" and sizes.get(node.input[1], 0) < _LARGE
    ]
    quantizer = MatMulNBitsQuantizer(
        prepared, block_size=_BLOCK, is_symmetric=True, nodes_to_exclude=small
    )
    quantizer.process()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _half(model: onnx.ModelProto, _: Pixels | None, __: Path) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half: onnx.ModelProto = convert_float_to_float16(copy_model(model), keep_io_types=True)
    sort_nodes(half.graph)  # the converter appends the cast of the input at the end
    return half


_QUANTIZERS: Mapping[str, Callable[[onnx.ModelProto, Pixels | None, Path], onnx.ModelProto]] = {
    "fp16": _half,
    "int8": _static,
    "int8-dynamic": _dynamic,
    "int4": _four_bits,
}


def _prepared(model: onnx.ModelProto, scratch: Path) -> Path:
    """Write the graph with batch norms folded and shapes inferred; otherwise int8 gains nothing."""
    source, path = scratch / "source.onnx", scratch / "prepared.onnx"
    onnx.save(model, source)
    # Symbolic inference adds nothing for one free axis, and knows fewer operators.
    quant_pre_process(str(source), str(path), skip_symbolic_shape=True)
    prepared = onnx.load(path)
    for index, node in enumerate(prepared.graph.node):
        node.name = node.name or f"unnamed_{index}"  # the quantizers exclude nodes by name
    onnx.save(prepared, path)
    return path


def _require_change(before: onnx.ModelProto, after: onnx.ModelProto, kind: str) -> None:
    if before.ByteSize() > after.ByteSize() or kind == "fp16":
        return
    kinds = sorted({node.op_type for node in before.graph.node})
    raise GraphError(
        f"expected operators that --quantize {kind} makes smaller, got {', '.join(kinds)}: use "
        "int8 for convolutions, or none"
    )
