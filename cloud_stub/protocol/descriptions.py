"""What the server says of its models: metadata, configuration, statistics, index."""

from __future__ import annotations

from collections.abc import Iterable

from cloud_stub.backends.backend import TensorSpec
from cloud_stub.scheduling.statistics import Outcome, Statistics
from cloud_stub.served import VERSION, ServedModel
from edge_runtime.wire import messages as pb
from edge_runtime.wire.tensors import BYTES


def model_metadata(model: ServedModel) -> pb.ModelMetadataResponse:
    """Return the tensors that a model takes and gives."""
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
    """Return how a model is served, in the terms of Triton's configuration."""
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
    """Return what models have done since the start."""
    response = pb.ModelStatisticsResponse()
    for model in models:
        response.model_stats.append(_statistics(model.name, model.statistics))
    return response


def repository_index(
    models: Iterable[ServedModel], *, is_ready: bool, ready_only: bool
) -> pb.RepositoryIndexResponse:
    """Return which models there are, and whether they take calls."""
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
    name = "STRING" if spec.datatype == BYTES else spec.datatype
    number: int = pb.DataType.Value(f"TYPE_{name}")
    return number


def _statistics(name: str, found: Statistics) -> pb.ModelStatistics:
    answered = found.outcomes[Outcome.ANSWERED]
    failed = sum(found.outcomes.values()) - answered
    stats = pb.ModelStatistics(
        name=name,
        version=VERSION,
        last_inference=round(found.last_unix_s * 1e3),
        inference_count=found.rows,
        execution_count=found.compute.count,
    )
    durations = {
        "success": (answered, found.latency.sum),
        "fail": (failed, found.failed_s),
        "queue": (answered, found.queue_wait.sum),
        "compute_input": (answered, found.input_s),
        "compute_infer": (found.compute.count, found.compute.sum),
        "compute_output": (answered, found.output_s),
    }
    for field, (count, seconds) in durations.items():
        duration = getattr(stats.inference_stats, field)
        duration.count, duration.ns = count, round(seconds * 1e9)
    for rows, (count, seconds) in sorted(found.batches.items()):
        batch = stats.batch_stats.add(batch_size=rows)
        batch.compute_infer.count, batch.compute_infer.ns = count, round(seconds * 1e9)
    return stats
