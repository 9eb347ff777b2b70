"""Writes the `InferenceService` by which KServe runs a model repository on Triton.

Its fields are those of `serving.kserve.io/v1beta1`. The runtime is KServe's own for Triton: it
listens for gRPC on port 9000 and serves all models of the storage, each by its folder's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from edge_runtime.errors import DependencyError

SERVICE_FILE: Final = "inference-service.yaml"
RUNTIME: Final = "kserve-tritonserver"
GRPC_PORT: Final = 9000
# HTTP/2 without TLS, by the name that Knative looks for; TLS ends at the cluster's gateway.
_GRPC_PORT_NAME: Final = "h2c"


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What the cluster is told beside the model.

    Attributes:
        name: The service's name.
        namespace: Where it runs; None leaves it to `kubectl`.
        storage_uri: Where the repository was put.
        replicas: How many copies run; None leaves it to KServe.
        cpu: Cores of a copy, as Kubernetes writes them.
        memory: Its memory, as Kubernetes writes it.
    """

    name: str
    namespace: str | None
    storage_uri: str
    replicas: int | None
    cpu: str
    memory: str


def render(settings: ServiceSettings) -> str:
    """Return the YAML text.

    Raises:
        DependencyError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise DependencyError("pyyaml", "writing an InferenceService", "deploy") from None
    return str(yaml.safe_dump(_manifest(settings), sort_keys=False, allow_unicode=True))


def _manifest(settings: ServiceSettings) -> dict[str, Any]:
    metadata = {"name": settings.name}
    if settings.namespace is not None:
        metadata["namespace"] = settings.namespace
    predictor: dict[str, Any] = {}
    if settings.replicas is not None:
        predictor |= {"minReplicas": settings.replicas, "maxReplicas": settings.replicas}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {"predictor": {**predictor, "model": _model(settings)}},
    }


def _model(settings: ServiceSettings) -> dict[str, Any]:
    # One dictionary each, or YAML would write the second as a reference to the first.
    requests, limits = ({"cpu": settings.cpu, "memory": settings.memory} for _ in range(2))
    return {
        "modelFormat": {"name": "onnx"},
        "runtime": RUNTIME,
        "protocolVersion": "v2",
        "storageUri": settings.storage_uri,
        "ports": [{"name": _GRPC_PORT_NAME, "containerPort": GRPC_PORT, "protocol": "TCP"}],
        "resources": {"requests": requests, "limits": limits},
    }
