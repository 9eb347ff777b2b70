"""A model's outputs as a response, in the form that the request came in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from cloud_stub.backends.backend import Outputs, TensorSpec
from cloud_stub.protocol.requests import NUMBER_BYTES, TEXT_BYTES
from cloud_stub.served import VERSION
from edge_runtime import contract
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors


def unpacked_bytes(
    request: pb.ModelInferRequest, specs: Sequence[TensorSpec], outputs: Outputs
) -> int:
    """Return about how much memory outputs take while they are written one by one."""
    is_raw = _is_raw(request, specs)
    total = 0
    for spec in specs:
        if spec.datatype == tensors.BYTES:
            total += TEXT_BYTES * outputs[spec.name].size
        elif not is_raw:
            total += NUMBER_BYTES * outputs[spec.name].size
    return total


def infer_response(
    request: pb.ModelInferRequest,
    specs: Sequence[TensorSpec],
    outputs: Outputs,
    *,
    compute_s: float | None,
) -> bytes:
    """Return a serialised `ModelInferResponse`.

    A peer that asked in typed form may be unable to read the raw one, so it gets typed contents,
    except where a type has none (FP16, BF16).

    Args:
        request: What is answered.
        specs: The outputs to answer with.
        outputs: The model's.
        compute_s: How long the model worked on it; None: it goes on working.
    """
    header = pb.ModelInferResponse(id=request.id)
    if compute_s is not None:
        header.parameters[contract.PARAMETER_COMPUTE_US].int64_param = round(compute_s * 1e6)
    if _is_raw(request, specs):
        head = _head(
            request.model_name,
            tuple([(spec.name, spec.datatype, outputs[spec.name].shape) for spec in specs]),
        )
        contents = [_raw(spec.datatype, outputs[spec.name]) for spec in specs]
        return head + tensors.append_raw(header, contents)
    header.model_name, header.model_version = request.model_name, VERSION
    for spec in specs:
        array = outputs[spec.name]
        output = header.outputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        tensors.fill_typed(output.contents, spec.datatype, array)
    return header.SerializeToString()


@lru_cache(maxsize=1024)
def _head(model: str, tensors_of: tuple[tuple[str, str, tuple[int, ...]], ...]) -> bytes:
    """Return what the answers of one shape have in common, as the beginning of a message.

    Fields of a message may follow each other in any number of pieces.
    """
    head = pb.ModelInferResponse(model_name=model, model_version=VERSION)
    for name, datatype, shape in tensors_of:
        head.outputs.add(name=name, datatype=datatype, shape=shape)
    return head.SerializeToString()


def _is_raw(request: pb.ModelInferRequest, specs: Sequence[TensorSpec]) -> bool:
    return bool(request.raw_input_contents) or any(
        spec.datatype in tensors.RAW_ONLY for spec in specs
    )


def _raw(datatype: str, array: tensors.Array) -> bytes | memoryview:
    if datatype == tensors.BYTES:
        return tensors.encode_bytes(array.flat)
    return tensors.encode_array(array)  # bfloat16 comes as bit patterns in uint16
