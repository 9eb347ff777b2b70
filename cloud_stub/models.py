"""A model as it is served: backend, queue and statistics under one name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cloud_stub.backends.backend import Backend
from cloud_stub.errors import NotServedError
from cloud_stub.model_settings import ModelSettings
from cloud_stub.protocol.bounds import RowBounds
from cloud_stub.scheduling.batcher import Batcher, Limits
from cloud_stub.scheduling.pieces import Pace, Pieces
from cloud_stub.scheduling.queue import Job
from cloud_stub.scheduling.runner import Runner
from cloud_stub.scheduling.statistics import Statistics
from cloud_stub.scheduling.workers import give_way
from edge_runtime import contract
from edge_runtime.bundle import role_of
from edge_runtime.cloud.security import Security
from edge_runtime.errors import DependencyError

VERSION: Final = "1"
"""The only version of a model; an empty version in a request means the same."""

_PIXELS_PER_BYTE: Final = 2  # of a batch: a picture is worked on alone, and rarely


class ServedModel:
    """One of the server's models.

    Args:
        name: Its name on the wire.
        backend: The model itself.
        limits: Limits of batches and of the queue.
        bounds: Most rows of a call, and the largest row.
    """

    def __init__(
        self, name: str, backend: Backend, limits: Limits, bounds: RowBounds | None = None
    ) -> None:
        if not backend.signature.is_batched:
            limits = replace(limits, max_delay_s=0.0)  # no other call can ever join
        self.name = name
        self.backend = backend
        self.limits = limits
        self.bounds = RowBounds() if bounds is None else bounds
        self.signature = backend.signature
        self.statistics = Statistics()
        is_continuous = backend.signature.is_continuous
        self._pace = Pace(limits.max_batch, is_timed=not is_continuous)
        self._runner = Runner(backend)
        self.batcher = Batcher(
            self._runner,
            workers=backend.workers,
            limits=limits,
            name=f"model-{name}",
            is_continuous=is_continuous,
            record=self._record_batch,
        )
        self.heavy = Batcher(
            self._run_heavy,
            workers=1,
            limits=limits,
            name=f"heavy-{name}",
            record=self.statistics.record_batch,
        )
        can_share = backend.signature.is_reentrant
        self.calls = Pieces(self.batcher, self._pace, self.heavy if can_share else None)

    def bound_batches(self, most_bytes: int) -> None:
        """Bound the inputs of a batch of several rows, and a picture, where memory is short."""
        for part in (self._pace, self.batcher, self.heavy):
            part.most_bytes = most_bytes
        pixels = min(self.bounds.max_pixels, _PIXELS_PER_BYTE * most_bytes)
        self.bounds = replace(self.bounds, max_pixels=pixels)

    @property
    def is_usable(self) -> bool:
        """True while the model accepts calls; false once too many of its workers hang."""
        return not (self.batcher.is_stuck or self.heavy.is_stuck)

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a worker."""
        return self.batcher.waiting + self.heavy.waiting

    @property
    def in_flight(self) -> int:
        """Number of calls that workers have."""
        return self.batcher.in_flight + self.heavy.in_flight

    @property
    def hanging(self) -> int:
        """Number of workers that were given up and have not come back."""
        return self.batcher.hanging + self.heavy.hanging

    def _run_heavy(self, jobs: list[Job]) -> Sequence[Any]:
        give_way()
        return self._runner(jobs)

    def _record_batch(self, rows: int, took_s: float) -> None:
        self.statistics.record_batch(rows, took_s)
        self._pace.observe_batch(took_s)

    def close(self) -> None:
        """Release workers and backend."""
        self.batcher.close()
        self.heavy.close()
        self.backend.close()


class Models:
    """The server's models by name.

    Args:
        models: At least one model; all names differ.
    """

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models = {model.name: model for model in models}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def find(self, name: str, version: str = "") -> ServedModel:
        """Return a model.

        Raises:
            NotServedError: This server has no model of that name, or not in that version.
        """
        model = self._models.get(name)
        if model is None:
            known = ", ".join(repr(known) for known in self._models)
            raise NotServedError(f"model {name[:80]!r} is not served here: ask for {known[:200]}")
        if version not in {"", VERSION}:
            raise NotServedError(
                f"version {version[:40]!r} of {name!r} is not served here: ask for {VERSION!r}"
            )
        return model


def open_backend(settings: ModelSettings) -> Backend:
    """Open the backend of a model; libraries that others need are not imported.

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

        return GraphBackend(settings.onnx, settings.threads, allow_loops=settings.allow_loops)
    assert settings.bundle is not None  # noqa: S101 - the settings hold exactly one source
    if role_of(settings.bundle) == contract.ROLE_DECODER:
        return _open_decoder(settings.bundle, settings)
    settings.refuse_generation_flags("a classifier's bundle")
    from cloud_stub.backends.classifiers import BundleBackend, CascadeBackend

    if not settings.cloud:
        return BundleBackend(settings.bundle, settings.threads)
    return CascadeBackend(settings.bundle, settings.threads, **_cloud_link(settings))


def _open_decoder(path: Path, settings: ModelSettings) -> Backend:
    from cloud_stub.language.decoder import DecoderBackend, DecoderCascadeBackend

    if settings.cloud:
        settings.refuse_generation_flags("a middle tier, whose models have limits of their own")
        return DecoderCascadeBackend(path, settings.threads, **_cloud_link(settings))
    return DecoderBackend(
        path, settings.threads, kind=settings.confidence, max_new_tokens=settings.max_new_tokens
    )


def _cloud_link(settings: ModelSettings) -> dict[str, Any]:
    """Return address, deadline and protection of the further cloud, as in `Cascade.open`."""
    link = {"cloud": settings.cloud, "deadline_s": settings.cloud_deadline_s}
    if not settings.cloud_tls:
        return {**link, "allow_plaintext": settings.cloud_plaintext}
    security = Security(
        ca=settings.cloud_ca,
        certificate=settings.cloud_certificate,
        key=settings.cloud_key,
        token_file=settings.cloud_token_file,
    )
    return {**link, "security": security}


def _open_checkpoint(path: Path, settings: ModelSettings) -> Backend:
    try:
        import torch  # noqa: F401 - before the modules that need it
    except ImportError:
        raise DependencyError("torch", "serving a checkpoint", "cloud") from None
    from train.models.language import is_language_model

    if is_language_model(path):
        from cloud_stub.language.checkpoint import LanguageBackend

        return LanguageBackend(
            path,
            settings.threads,
            kind=settings.confidence_kind,
            max_new_tokens=settings.most_new_tokens,
            max_rows=settings.max_batch,
        )
    settings.refuse_generation_flags("a classifier's checkpoint")
    from cloud_stub.backends.classifiers import CheckpointBackend

    return CheckpointBackend(path, settings.threads)
