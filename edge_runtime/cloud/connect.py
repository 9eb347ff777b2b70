"""Makes the right kind of cloud of what `Cascade.open` was given."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.cloud.base import Cloud, CloudAnswers
from edge_runtime.cloud.model import CloudModel
from edge_runtime.edge import Edge
from edge_runtime.errors import (
    CloudError,
    CloudRejectedError,
    CloudUnavailableError,
    InputError,
    SettingError,
)

# MERGEDOC edge_runtime/cloud/failover.py: 'Several servers of one model: who does not answer is passed over.'
# MERGEDOC edge_runtime/cloud/tier.py: 'A cascade as the cloud of another: M_S -> M_M -> M_L, all but the last on this machine.'

if TYPE_CHECKING:
    from edge_runtime.cascade import Cascade


def connect(
    cloud: str | Sequence[str] | Cascade | None,
    edge: Edge,
    *,
    model: str,
    deadline_s: float,
    forward: str,
    options: dict[str, Any],
) -> Cloud | None:
    """Return what stands behind an edge model; nothing is sent.

    Args:
        cloud: `HOST:PORT`, several of them, another cascade, or None.
        edge: The edge model, which says what is forwarded and which classes there are.
        model: The large model's name on the server.
        deadline_s: Longest wait for it, in seconds.
        forward: The `original` input, or the graph's own `model_input`.
        options: Further arguments of `CloudModel.open`.

    Raises:
        SettingError: A setting makes no sense or contradicts the bundle.
    """
    generates = edge.metadata.task == contract.TASK_GENERATION
    if cloud is None or not isinstance(cloud, str | Sequence):
        _refuse_unknown(options)
        if cloud is None:
            return None
        if generates:
            raise SettingError(
                "expected an address as cloud of a bundle that generates text, got a cascade: that "
                "is not handled yet"
            )

        return Tier(cloud, edge.labels)
    _check_forward(forward, edge.metadata.input.name)
    options.setdefault("cloud_input", edge.metadata.input.name)
    addresses = [cloud] if isinstance(cloud, str) else cloud
    with contextlib.ExitStack() as opened:  # one that cannot be opened closes those before it
        models = [
            opened.enter_context(
                CloudModel.open(
                    address,
                    model,
                    labels=None if generates else edge.labels,
                    deadline_s=deadline_s,
                    **options,
                )
            )
            for address in addresses
        ]
        opened.pop_all()
    return models[0] if len(models) == 1 else Failover(models)


def _check_forward(forward: str, name: str) -> None:
    if forward not in {"original", "model_input"}:
        raise SettingError(f"expected forward 'original' or 'model_input', got {forward!r}")
    if forward == "original" and name not in contract.ORIGINALS:
        raise SettingError(
            f"the bundle takes {name!r}, not {contract.IMAGE!r}, so there is no original "
            "picture to forward: export with --preprocessing fused, or set "
            "forward='model_input' (--forward)"
        )
    if forward == "model_input" and name == contract.TEXT:
        raise SettingError(
            "expected forward='original' for a bundle of texts: M_L has a tokenizer of its own"
        )


def _refuse_unknown(options: dict[str, Any]) -> None:
    """Refuse misspelt options where no cloud model is there to do so."""
    if options:
        from edge_runtime.cloud.model import CloudModel

        inspect.signature(CloudModel.open).bind_partial(**options)


class Failover:
    """Asks the first server whose circuit is closed, then the next; safe to share between threads.

    The deadline of a call is for all of them together: each may take an equal part of what is left,
    the last one all of it. A request that a server refused is not taken to the next one, which
    would refuse it as well.

    Args:
        models: The servers, the preferred one first.

    Raises:
        SettingError: There is none.
    """

    def __init__(self, models: Sequence[CloudModel]) -> None:
        if not models:
            raise SettingError("expected at least one cloud address, got none")
        self.models = tuple(models)
        self.model = models[0].model
        self.takes_files = models[0].takes_files
        self.deadline_s = models[0].deadline_s

    def infer(
        self,
        rows: npt.NDArray[Any],
        *,
        confidences: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None,
        threshold: float | None = None,
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> CloudAnswers:
        """Ask about a batch; see `CloudModel.infer`.

        Raises:
            CloudError: Why the last one gave no answer.
        """
        end_s = monotonic() + (self.deadline_s if deadline_s is None else deadline_s)
        closed = [model for model in self.models if not model.breaker.is_open]
        # Where all circuits are open, the first one says for how long and why.
        candidates = closed or self.models[:1]
        reasons: list[CloudError] = []
        for place, model in enumerate(candidates):
            left_s = (end_s - monotonic()) / (len(candidates) - place)
            if left_s <= 0:
                break
            try:
                return model.infer(
                    rows,
                    confidences=confidences,
                    threshold=threshold,
                    deadline_s=left_s,
                    request_id=request_id,
                )
            except CloudRejectedError:
                raise
            except CloudError as error:
                reasons.append(error)
        raise reasons[-1] if reasons else CloudUnavailableError("no time was left to ask a server")

    def close(self) -> None:
        """Close the connections to all of them."""
        for model in self.models:
            model.close()


if TYPE_CHECKING:
    from edge_runtime.cascade import Cascade


class Tier:
    """Answers what a smaller model deferred, with a cascade of its own.

    Its deadlines are those of that cascade. What M_M answers because M_L is out of reach counts as
    answered, and the reason goes along.

    Args:
        cascade: M_M and what stands behind it; closed with this.
        labels: M_S's class names; M_M's are mapped to them by name.

    Raises:
        SettingError: The two know different classes.
    """

    def __init__(self, cascade: Cascade, labels: Sequence[str]) -> None:
        self.cascade = cascade
        self.takes_files = False
        self.deadline_s = None
        self.model = cascade.edge.bundle.path.name
        self._index = {name: position for position, name in enumerate(labels)}
        odd = sorted(set(labels) ^ set(cascade.edge.labels))
        if odd:
            raise SettingError(
                "expected the middle cascade to know the same classes, they differ in "
                f"{', '.join(odd[:5])}: export both from models of one data set"
            )

    def infer(
        self,
        rows: npt.NDArray[Any],
        *,
        confidences: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None,  # noqa: ARG002 - the next gate has its own
        threshold: float | None = None,  # noqa: ARG002 - the same
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> CloudAnswers:
        """Answer a batch with the middle model, or with what stands behind it.

        Raises:
            CloudRejectedError: The middle model does not take such inputs.
            CloudError: Where the middle cascade is to raise.
        """
        try:
            answers = self.cascade.batch(rows, deadline_s=deadline_s, request_id=request_id)
        except InputError as error:
            raise CloudRejectedError(f"{self.model}: {error}", is_divisible=True) from None
        names = [answer.label for answer in answers]
        return CloudAnswers(
            np.fromiter((self._index[name] for name in names), np.int64, len(names)),
            names,
            np.fromiter((answer.confidence for answer in answers), np.float32, len(names)),
            sent_bytes=0,  # that link has a budget of its own
            compute_s=answers[0].timings.edge_s + answers[0].timings.cloud_s,
            errors=tuple(answer.error for answer in answers),
        )

    def close(self) -> None:
        """Close the middle cascade."""
        self.cascade.close()
