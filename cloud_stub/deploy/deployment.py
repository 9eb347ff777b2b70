"""Writes what an engine needs to serve a model, and prints the way for the edge to ask it.

An engine answers with class indices or scores instead of the labels of our own server, and takes
the graph's own input, so the printed call and command line map these for the cascade.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Final

from cloud_stub.deploy import triton
from cloud_stub.deploy.model import (
    DeployedModel,
    TensorDescription,
    check_labels,
    is_scores,
    read_bundle_model,
    read_onnx_model,
)
from cloud_stub.deploy.settings import DEFAULT_MAX_BATCH, REPOSITORY, DeploySettings
from cloud_stub.errors import DeployError
from edge_runtime.errors import DependencyError
from edge_runtime.files import fresh_folder, repair, require_free
from edge_runtime.names import read_class_names

SERVICE_FILE: Final = "inference-service.yaml"
_RUNTIME: Final = "kserve-tritonserver"
_GRPC_PORT: Final = 9000
# HTTP/2 without TLS, under the name that Knative expects; TLS ends at the cluster's gateway.
_GRPC_PORT_NAME: Final = "h2c"
_PICTURES_RANK: Final = 4
_CHANNELS: Final = 3
_MAX_SPELT_OUT: Final = 20
_EDGE_TYPES: Final = {"UINT8", "FP32", "BYTES"}


def deploy(settings: DeploySettings) -> None:
    """Write the files of an engine and print the way for the edge to ask it.

    Raises:
        GatekeeperError: The model cannot be deployed; nothing was written.
    """
    is_triton = settings.target == "triton"
    folder = settings.out / settings.model if is_triton else settings.out
    mark = triton.CONFIG_FILE if is_triton else SERVICE_FILE
    if is_triton and settings.out.is_dir():
        repair(folder, triton.scratch_place(folder))
    require_free(folder, mark=mark, overwrite=settings.overwrite, error=DeployError)
    model = _read(settings)
    max_batch = _max_batch(settings, model)
    # PyYAML may be missing: the text is made before anything is written.
    service = None if is_triton else _service_text(settings)
    with fresh_folder(folder, scratch=triton.scratch_place(folder)) as fresh:
        if service is None:
            triton.write_model(fresh, model, settings.model, max_batch)
        else:
            model_folder = fresh / REPOSITORY / settings.model
            model_folder.mkdir(parents=True)
            triton.write_model(model_folder, model, settings.model, max_batch)
            (fresh / SERVICE_FILE).write_text(service, encoding="utf-8")
    _report(settings, model, folder, max_batch)


def _read(settings: DeploySettings) -> DeployedModel:
    if settings.bundle is not None:
        return read_bundle_model(settings.bundle)
    assert settings.onnx is not None  # noqa: S101 - the settings hold exactly one of them
    labels = () if settings.labels is None else _read_labels(settings.labels)
    return read_onnx_model(settings.onnx, labels, settings.answer)


def _read_labels(file: Path) -> tuple[str, ...]:
    try:
        labels = read_class_names(file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DeployError(f"expected a file of labels at {file}, got {reason}") from None
    except UnicodeDecodeError as error:
        raise DeployError(f"expected UTF-8 in {file}, got {error.reason}: convert it") from None
    if labels == ("",):
        raise DeployError(f"expected one label per line in {file}, got none: write them there")
    return check_labels(labels)


def _max_batch(settings: DeploySettings, model: DeployedModel) -> int:
    if settings.max_batch is not None and not model.has_rows:
        tensors = "; ".join(map(str, (*model.graph.inputs, *model.outputs)))
        raise DeployError(
            "expected a graph with a free first axis of all tensors, and a further axis of its "
            f"inputs, for --max-batch; {model.graph.path} has {tensors}: leave --max-batch out"
        )
    return settings.max_batch or DEFAULT_MAX_BATCH


def _service_text(settings: DeploySettings) -> str:
    """Return the YAML of the `InferenceService` by which KServe runs the repository on Triton.

    Its fields are those of `serving.kserve.io/v1beta1`. KServe's own runtime for Triton listens for
    gRPC on port 9000 and serves all models of the storage, each under its folder's name.
    """
    try:
        import yaml
    except ImportError:
        raise DependencyError("pyyaml", "writing an InferenceService", "deploy") from None
    return str(yaml.safe_dump(_manifest(settings), sort_keys=False, allow_unicode=True))


def _manifest(settings: DeploySettings) -> dict[str, Any]:
    metadata = {"name": settings.model}
    if settings.namespace is not None:
        metadata["namespace"] = settings.namespace
    predictor: dict[str, Any] = {}
    if settings.replicas is not None:
        predictor |= {"minReplicas": settings.replicas, "maxReplicas": settings.replicas}
    size = {"cpu": settings.cpu or "1", "memory": settings.memory or "2Gi"}
    predictor["model"] = {
        "modelFormat": {"name": "onnx"},
        "runtime": _RUNTIME,
        "protocolVersion": "v2",
        "storageUri": str(settings.storage_uri),
        "ports": [{"name": _GRPC_PORT_NAME, "containerPort": _GRPC_PORT, "protocol": "TCP"}],
        # A dictionary each, or YAML would write the second as a reference to the first.
        "resources": {"requests": {**size}, "limits": {**size}},
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {"predictor": predictor},
    }


def _report(settings: DeploySettings, model: DeployedModel, folder: Path, max_batch: int) -> None:
    print(f"cloud_stub: wrote {folder} for {settings.target}")
    repository = settings.out
    if settings.target == "kserve":
        repository = settings.out / REPOSITORY
        print(f"cloud_stub: upload {repository} to {settings.storage_uri}, then run")
        print(f"  kubectl apply -f {settings.out / SERVICE_FILE}")
    labels_file = repository / settings.model / triton.LABELS_FILE
    if _obstacle(model) is None:
        print("cloud_stub: on the edge, ask it with")
        print(_command_line(model, settings.model, labels_file))
        print("cloud_stub: or in Python with")
        print(_python_call(model, settings.model, labels_file))
    for note in _notes(model, max_batch):
        print(f"cloud_stub: note: {note}", file=sys.stderr)


def _python_call(model: DeployedModel, name: str, labels_file: Path) -> str:
    options = {key: repr(value) for key, value in _options(model, name).items()}
    if len(model.labels) > _MAX_SPELT_OUT:
        options["cloud_labels"] = f"Path({str(labels_file)!r}).read_text('utf-8').splitlines()"
    elif model.labels:
        options["cloud_labels"] = repr(model.labels)
    lines = [f"    {key}={value}," for key, value in options.items()]
    return "\n".join(["Cascade.open(", "    BUNDLE,", *lines, ")"])


def _command_line(model: DeployedModel, name: str, labels_file: Path) -> str:
    options = _options(model, name)
    if model.labels:
        options["cloud_labels"] = str(labels_file)
    flags = [(f"--{key.replace('_', '-')}", value) for key, value in options.items()]
    words = ["--bundle", "BUNDLE", *(word for flag in flags for word in flag), "INPUTS"]
    return shlex.join(["python", "-m", "edge_runtime", "run", *words])


def _options(model: DeployedModel, name: str) -> dict[str, str]:
    """Return the arguments of `Cascade.open` except the labels, which have a form for each."""
    tensor = model.graph.inputs[0]
    options = {
        "cloud": "HOST:PORT",
        "model": name,
        "cloud_input": tensor.name,
        "cloud_output": model.answer.name,
    }
    if is_scores(model.answer):
        options["cloud_reduce"] = "argmax"
    if not _takes_originals(tensor):
        options["forward"] = "model_input"
    return options


def _notes(model: DeployedModel, max_batch: int) -> list[str]:
    """Return further facts about asking the model, one sentence each."""
    reason = _obstacle(model)
    if reason is not None:
        return [f"no cascade can ask it: {reason}"]
    tensor, notes = model.graph.inputs[0], []
    if model.has_rows:
        notes.append(f"the engine refuses calls of more than {max_batch} inputs")
    elif tensor.has_free_rows:
        notes.append("the engine runs each call alone: it does not combine requests")
    else:
        notes.append(f"the engine takes exactly the shape {tensor}")
    if not model.labels:
        notes.append("the labels are unknown: the cascade will assume the edge model's own order")
    if not _takes_originals(tensor):
        notes.append(f"the edge model must take the same input: {tensor}")
    return notes


def _obstacle(model: DeployedModel) -> str | None:
    """Return the reason why no cascade can ask the model; None if one can."""
    inputs = model.graph.inputs
    described = "; ".join(map(str, inputs))
    if len(inputs) != 1:
        return f"the edge sends one input, the graph takes {len(inputs)} ({described})"
    if inputs[0].datatype not in _EDGE_TYPES:
        return f"the edge sends UINT8, FP32 or BYTES, the graph takes {described}"
    if inputs[0].datatype == "BYTES" and len(inputs[0].shape) != 1:
        return f"the edge sends texts as BYTES [-1], the graph takes {described}"
    return None


def _takes_originals(tensor: TensorDescription) -> bool:
    """Return whether an input is what the device has: texts, or pictures [rows, h, w, 3]."""
    if tensor.datatype == "BYTES":
        return True
    is_pictures = len(tensor.shape) == _PICTURES_RANK and tensor.shape[-1] == _CHANNELS
    return tensor.datatype == "UINT8" and is_pictures
