"""Makes a graph of logits smaller and faster with ONNX Runtime's quantizers.

The gate is appended afterwards, so that it stays in float32: quantized with the rest its confidence
would have a few hundred values.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from export.errors import GraphError
from export.graphs import sort_nodes

Kind = Literal["none", "fp16", "int8", "int8-dynamic", "int4"]
_MATRICES = ("MatMul", "Gemm")
_BLOCK = 32  # weights that share a scale
_LARGE = 1 << 14  # weights of a matrix from which 4 bits save anything
_BATCH_BYTES = 1 << 18  # of input; the activations of all layers are many times that
_PERCENTILE = 99.999  # of each activation that its range holds
_STEM = 3  # convolutions that stay in float32: in a ResNet those up to the first residual sum
_STEM_SHARE = 1 / 6  # of the convolutions, and of their multiplications, at most
Pixels = npt.NDArray[np.float32]


def quantize(model: onnx.ModelProto, kind: Kind, pixels: Pixels | None = None) -> onnx.ModelProto:
    """Return the graph quantized; the input stays float32, so do the logits.

    Args:
        model: A graph float32 [batch, ...] -> logits [batch, classes].
        kind: `int8` fixes the ranges of activations on `pixels` (static QDQ, for convolutions);
            `int8-dynamic` finds them at run time, `int4` keeps weights alone in 4 bits (both for
            matrix products); `fp16` halves every weight.
        pixels: float32 [n, ...] as the graph takes them; `int8` needs them.

    Raises:
        GraphError: The quantizer cannot take the graph, or finds nothing in it to quantize.
    """
    if kind == "none":
        return model
    try:
        with _quiet(), tempfile.TemporaryDirectory() as scratch:
            quantized = _QUANTIZERS[kind](model, pixels, Path(scratch))
    except GraphError:
        raise
    except Exception as error:  # noqa: BLE001 - the quantizers raise unrelated classes
        reason = " ".join(str(error).split())[:200]
        raise GraphError(
            f"expected a graph that --quantize {kind} can take, ONNX Runtime's quantizer failed "
            f"({type(error).__name__}: {reason}): use another of {', '.join(get_args(Kind))}"
        ) from None
    _require_change(model, quantized, kind)
    return quantized


class _Batches(quantization.CalibrationDataReader):
    """Hands the calibration inputs to the quantizer, as many batches as it asks for at a time."""

    def __init__(self, name: str, pixels: Pixels) -> None:
        size = max(1, _BATCH_BYTES // pixels[0].nbytes)
        self._feeds = [{name: pixels[i : i + size]} for i in range(0, len(pixels), size)]
        self._asked = iter(self._feeds)

    def __len__(self) -> int:
        return len(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._asked = iter(self._feeds[start_index:end_index])

    def get_next(self) -> dict[str, Pixels] | None:
        return next(self._asked, None)


def _static(model: onnx.ModelProto, pixels: Pixels | None, scratch: Path) -> onnx.ModelProto:
    if pixels is None or not len(pixels):
        raise GraphError("expected inputs to fix the ranges of --quantize int8 on, got none")
    prepared = _prepared(model, scratch)
    quantization.quantize_static(
        str(prepared),
        str(scratch / "quantized.onnx"),
        _Batches(model.graph.input[0].name, pixels),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        # Unsigned activations: the kernels of x86 are fastest with them, and ReLU is never below 0.
        activation_type=quantization.QuantType.QUInt8,
        # All 8 bits. ONNX Runtime advises 7 (reduce_range) for x86 without VNNI, whose sums may
        # saturate; with VNNI these cost flips (3.0 instead of 2.1 % on ResNet-20), and ARM has no
        # need of them.
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=_stem(onnx.load(prepared).graph),
        # The rarest values widen the steps of all others: without them 1.2 instead of 1.8 % of
        # ResNet-56's decisions flip. 99.99 % cuts off too many (SmallCNN 1.5 instead of 1.0 %).
        calibrate_method=quantization.CalibrationMethod.Percentile,
        extra_options={
            "CalibPercentile": _PERCENTILE,
            "CalibTensorRangeSymmetric": False,  # half of the range would lie below ReLU's 0
            "CalibStridedMinMax": 1,  # batch by batch; otherwise it holds all activations at once
            # The last one's are the logits: in 8 bits they have a few hundred values.
            "OpTypesToExcludeOutputQuantization": list(_MATRICES),
        },
    )
    return onnx.load(scratch / "quantized.onnx")


def _stem(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes at the front, which stay in float32 where that is cheap.

    What 8 bits lose there goes through all the other layers: in ResNet-20 half of the variance that
    8-bit activations add to the confidences is the input's and the first convolution's.
    """
    convolutions = [i for i, node in enumerate(graph.node) if node.op_type == "Conv"]
    if len(convolutions) < 2:  # noqa: PLR2004 - the only one is what there is to quantize
        return []
    # One in a short net, whatever it takes: SmallCNN's decisions flip by 1.0 instead of 1.6 %.
    count = min(_STEM, max(1, int(len(convolutions) * _STEM_SHARE)))
    costs = _multiplications(graph)
    # A ResNet-18 at 224 x 224 would run 2.5 instead of 3.4 times as fast, and has no need of it.
    if count > 1 and not sum(costs[:count]) < _STEM_SHARE * sum(costs):
        return []
    return [node.name for node in graph.node[: convolutions[count]]]


def _multiplications(graph: onnx.GraphProto) -> list[int]:
    """Return how many each convolution takes for one input, 0 where its size is unknown."""
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
        # Convolutions are left: with ranges found at run time they are several times slower. Gather
        # reads an embedding, most of the weights of a small text classifier.
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

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    half: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True)
    sort_nodes(half.graph)  # it appends the cast of the input at the end
    return half


_QUANTIZERS: Mapping[str, Callable[[onnx.ModelProto, Pixels | None, Path], onnx.ModelProto]] = {
    "fp16": _half,
    "int8": _static,
    "int8-dynamic": _dynamic,
    "int4": _four_bits,
}


def _prepared(model: onnx.ModelProto, scratch: Path) -> Path:
    """Fold batch norms and infer shapes: without this step int8 gains nothing."""
    source, path = scratch / "source.onnx", scratch / "prepared.onnx"
    onnx.save(model, source)
    # The symbolic inference adds nothing for one free axis, and knows fewer operators.
    quant_pre_process(str(source), str(path), skip_symbolic_shape=True)
    prepared = onnx.load(path)
    for index, node in enumerate(prepared.graph.node):
        node.name = node.name or f"unnamed_{index}"  # the quantizers leave out nodes by name
    onnx.save(prepared, path)
    return path


def _require_change(before: onnx.ModelProto, after: onnx.ModelProto, kind: str) -> None:
    if before.ByteSize() > after.ByteSize() or kind == "fp16":
        return
    kinds = sorted({node.op_type for node in before.graph.node})
    raise GraphError(
        f"expected something that --quantize {kind} makes smaller, found none among "
        f"{', '.join(kinds)}: use int8 for convolutions, or none"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizers advise and report on the root logger and on standard output."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # what matters of it is in the error
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
