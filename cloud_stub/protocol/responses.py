"""Responses: a model's outputs in the form of the request, and descriptions of the models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from cloud_stub.backends.backend import Outputs, TensorSpec
from cloud_stub.models import VERSION, ServedModel
from cloud_stub.protocol.requests import NUMBER_BYTES, TEXT_BYTES
from cloud_stub.scheduling.statistics import Outcome, Statistics
from edge_runtime import contract
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors


def unpacked_bytes(
    request: pb.ModelInferRequest, specs: Sequence[TensorSpec], outputs: Outputs
) -> int:
    """Return about how much memory outputs take while their elements are written one by one."""
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

    A client that sent typed contents may be unable to read raw ones, so it gets typed contents,
    except for types that have none (FP16, BF16).

    Args:
        request: The request.
        specs: Descriptions of the outputs to answer with.
        outputs: The model's outputs.
        compute_s: Seconds that the model worked on it; None while it is still working.
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
    """Return the beginning of a message, the same for all answers of one shape.

    A message may be put together from any number of pieces.
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
    return tensors.encode_array(array)  # bfloat16 arrives as bit patterns in uint16


def model_metadata(model: ServedModel) -> pb.ModelMetadataResponse:
    """Return a model's inputs and outputs."""
    signature = model.signature
    response = pb.ModelMetadataResponse(
        name=model.name, versions=[VERSION], platform=signature.platform
    )
    for spec in signature.inputs:
        response.inputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    for spec in signature.outputs:
        response.outputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    return response


def model_config(model: ServedModel) -> pb.ModelConfigResponse:
    """Return a model's settings in the terms of Triton's configuration."""
    signature, limits = model.signature, model.limits
    config = pb.ModelConfig(name=model.name, platform=signature.platform, backend="cloud_stub")
    skipped = 0
    if signature.is_batched:
        skipped = 1
        config.max_batch_size = limits.max_batch
        config.dynamic_batching.max_queue_delay_microseconds = round(limits.max_delay_s * 1e6)
    for spec in signature.inputs:
        config.input.add(name=spec.name, data_type=_data_type(spec), dims=spec.shape[skipped:])
    for spec in signature.outputs:
        config.output.add(name=spec.name, data_type=_data_type(spec), dims=spec.shape[skipped:])
    return pb.ModelConfigResponse(config=config)


def model_statistics(models: Iterable[ServedModel]) -> pb.ModelStatisticsResponse:
    """Return the figures of models since the start."""
    response = pb.ModelStatisticsResponse()
    for model in models:
        response.model_stats.append(_statistics(model.name, model.statistics))
    return response


def repository_index(
    models: Iterable[ServedModel], *, is_ready: bool, ready_only: bool
) -> pb.RepositoryIndexResponse:
    """Return the list of models, and whether they accept calls."""
    response = pb.RepositoryIndexResponse()
    for model in models:
        reason = "" if model.is_usable else "its workers hang"
        if not is_ready:
            reason = "the server is shutting down"
        if reason and ready_only:
            continue
        state = "UNAVAILABLE" if reason else "READY"
        response.models.add(name=model.name, version=VERSION, state=state, reason=reason)
    return response


def _data_type(spec: TensorSpec) -> int:
    name = "STRING" if spec.datatype == tensors.BYTES else spec.datatype
    number: int = pb.DataType.Value(f"TYPE_{name}")
    return number


def _statistics(name: str, statistics: Statistics) -> pb.ModelStatistics:
    answered = statistics.outcomes[Outcome.ANSWERED]
    failed = sum(statistics.outcomes.values()) - answered
    stats = pb.ModelStatistics(
        name=name,
        version=VERSION,
        last_inference=round(statistics.last_unix_s * 1e3),
        inference_count=statistics.rows,
        execution_count=statistics.compute.count,
    )
    durations = {
        "success": (answered, statistics.latency.sum),
        "fail": (failed, statistics.failed_s),
        "queue": (answered, statistics.queue_wait.sum),
        "compute_input": (answered, statistics.input_s),
        "compute_infer": (statistics.compute.count, statistics.compute.sum),
        "compute_output": (answered, statistics.output_s),
    }
    for field, (count, seconds) in durations.items():
        duration = getattr(stats.inference_stats, field)
        duration.count, duration.ns = count, round(seconds * 1e9)
    for rows, (count, seconds) in sorted(statistics.batches.items()):
        batch = stats.batch_stats.add(batch_size=rows)
        batch.compute_infer.count, batch.compute_infer.ns = count, round(seconds * 1e9)
    return stats
