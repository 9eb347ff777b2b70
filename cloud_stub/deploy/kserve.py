"""The `InferenceService` by which KServe runs a model repository on Triton.

Its fields are those of `serving.kserve.io/v1beta1`. The runtime is KServe's own for Triton: it
listens for gRPC on port 9000 and serves all models of the storage, each under its folder's name.
"""

from __future__ import annotations

from typing import Any, Final

from cloud_stub.deploy.settings import DeploySettings
from edge_runtime.errors import DependencyError

SERVICE_FILE: Final = "inference-service.yaml"
RUNTIME: Final = "kserve-tritonserver"
GRPC_PORT: Final = 9000
# HTTP/2 without TLS, under the name that Knative expects; TLS ends at the cluster's gateway.
_GRPC_PORT_NAME: Final = "h2c"


def render(settings: DeploySettings) -> str:
    """Return the YAML text.

    Raises:
        DependencyError: PyYAML is not installed.
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
        "runtime": RUNTIME,
        "protocolVersion": "v2",
        "storageUri": str(settings.storage_uri),
        "ports": [{"name": _GRPC_PORT_NAME, "containerPort": GRPC_PORT, "protocol": "TCP"}],
        # A dictionary each, or YAML would write the second as a reference to the first.
        "resources": {"requests": {**size}, "limits": {**size}},
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {"predictor": predictor},
    }
