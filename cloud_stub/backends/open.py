"""Opens whichever kind of model was named."""

from __future__ import annotations

from cloud_stub.backends.backend import Backend
from cloud_stub.settings import ModelSettings


def open_backend(settings: ModelSettings) -> Backend:
    """Open a model.

    Raises:
        GatekeeperError: It cannot be opened.
    """
    if settings.checkpoint is not None:
        from cloud_stub.backends.checkpoint import CheckpointBackend

        return CheckpointBackend(settings.checkpoint, settings.threads)
    if settings.onnx is not None:
        from cloud_stub.backends.graph import GraphBackend

        return GraphBackend(settings.onnx, settings.threads)
    assert settings.bundle is not None  # noqa: S101 - the settings hold exactly one of the three
    if settings.cloud:
        from cloud_stub.backends.cascade import CascadeBackend

        return CascadeBackend(
            settings.bundle,
            settings.threads,
            cloud=settings.cloud,
            deadline_s=settings.cloud_deadline,
            **settings.onward_link(),
        )
    from cloud_stub.backends.bundle import BundleBackend

    return BundleBackend(settings.bundle, settings.threads)
