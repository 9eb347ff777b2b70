"""Opens whichever kind of model was named."""

from __future__ import annotations

from pathlib import Path

from cloud_stub.backends.backend import Backend
from cloud_stub.settings import ModelSettings
from edge_runtime.errors import DependencyError


def open_backend(settings: ModelSettings) -> Backend:
    """Open a model.

    Raises:
        GatekeeperError: It cannot be opened.
    """
    if settings.checkpoint is not None:
        return _open_checkpoint(settings.checkpoint, settings)
    if settings.upstream:
        from cloud_stub.language.upstream import UpstreamBackend

        return UpstreamBackend(settings)
    if settings.onnx is not None:
        from cloud_stub.backends.graph import GraphBackend

        return GraphBackend(settings.onnx, settings.threads)
    assert settings.bundle is not None  # noqa: S101 - the settings hold exactly one of them
    if settings.cloud:
        from cloud_stub.backends.classifiers import CascadeBackend

        return CascadeBackend(
            settings.bundle,
            settings.threads,
            cloud=settings.cloud,
            deadline_s=settings.cloud_deadline,
            **settings.onward_link(),
        )
    from cloud_stub.backends.classifiers import BundleBackend

    return BundleBackend(settings.bundle, settings.threads)


def _open_checkpoint(path: Path, settings: ModelSettings) -> Backend:
    try:
        import torch  # noqa: F401 - before what needs it
    except ImportError:
        raise DependencyError("torch", "serving a checkpoint", "cloud") from None
    from train.models.language import is_language_model

    if is_language_model(path):
        from cloud_stub.language.checkpoint import LanguageBackend

        return LanguageBackend(
            path,
            settings.threads,
            kind=settings.confidence_kind,
            max_new_tokens=settings.max_new_tokens,
            max_rows=settings.max_batch,
        )
    settings.refuse_generation_flags("a classifier's checkpoint")
    from cloud_stub.backends.classifiers import CheckpointBackend

    return CheckpointBackend(path, settings.threads)
