"""A model as it is served: its backend, its queue, its figures, under one name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from cloud_stub.backends.backend import Backend
from cloud_stub.errors import NotServedError
from cloud_stub.scheduling.batcher import Batcher, Limits
from cloud_stub.scheduling.runner import Runner
from cloud_stub.scheduling.statistics import Statistics

VERSION: Final = "1"
"""The only version of a model; an empty version in a request means it too."""


class ServedModel:
    """One of the server's models.

    Args:
        name: On the wire.
        backend: What computes.
        limits: How much at once, and how long.
    """

    def __init__(self, name: str, backend: Backend, limits: Limits) -> None:
        if not backend.signature.is_batched:
            limits = replace(limits, max_delay_s=0.0)  # no company is ever to be had
        self.name = name
        self.backend = backend
        self.limits = limits
        self.signature = backend.signature
        self.statistics = Statistics()
        self.batcher = Batcher(
            Runner(backend),
            workers=backend.workers,
            limits=limits,
            name=f"model-{name}",
            is_continuous=backend.signature.is_continuous,
            record=self.statistics.record_batch,
        )

    @property
    def is_usable(self) -> bool:
        """Whether it takes calls; not any more where too many of its workers hang."""
        return not self.batcher.is_stuck

    def close(self) -> None:
        """Let go of workers and backend."""
        self.batcher.close()
        self.backend.close()


class Models:
    """The server's models by name.

    Args:
        models: At least one, each with a name of its own.
    """

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models = {model.name: model for model in models}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def find(self, name: str, version: str = "") -> ServedModel:
        """Return a model.

        Raises:
            NotServedError: There is none of that name, or not in that version.
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
