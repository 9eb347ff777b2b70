"""Opens the large model behind a cascade: one server, several, or another cascade."""

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

if TYPE_CHECKING:
    from edge_runtime.cascade import Cascade

_PICTURE_RANK, _COLOURS = 4, 3


def connect(
    cloud: str | Sequence[str] | Cascade | None,
    edge: Edge,
    *,
    model: str,
    deadline_s: float,
    forward: str,
    options: dict[str, Any],
) -> Cloud | None:
    """Return the large model behind an edge model; no input is sent.

    Args:
        cloud: `HOST:PORT`, several of them, another cascade, or None.
        edge: The edge model, whose input is forwarded and whose classes M_L must have.
        model: The large model's name on the server.
        deadline_s: Time limit of a call in seconds.
        forward: The forwarded input: the `original`, or the graph's own `model_input`.
        options: Further arguments of `CloudModel.open`.

    Raises:
        SettingError: A setting is invalid or contradicts the bundle.
    """
    generates = edge.metadata.task == contract.TASK_GENERATION
    if cloud is None or not isinstance(cloud, str | Sequence):
        inspect.signature(CloudModel.open).bind_partial(**options)  # refuses misspelt options
        if cloud is None:
            return None
        if generates:
            raise SettingError(
                "expected an address as cloud of a bundle that generates text, got a cascade: this "
                "is not supported yet"
            )
        return Tier(cloud, edge.labels)
    _check_forward(forward, edge.metadata.input)
    options.setdefault("cloud_input", edge.metadata.input.name)
    addresses = [cloud] if isinstance(cloud, str) else cloud
    with contextlib.ExitStack() as opened:  # if one cannot be opened, those before it are closed
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


def _check_forward(forward: str, described: contract.InputDescription) -> None:
    name = described.name
    if forward not in {"original", "model_input"}:
        raise SettingError(f"expected forward 'original' or 'model_input', got {forward!r}")
    if forward == "original" and name not in contract.ORIGINALS and _is_prepared(described):
        raise SettingError(
            f"the bundle takes {name!r}, not {contract.IMAGE!r}, so there is no original "
            "picture to forward: export with --preprocessing fused, or set "
            "forward='model_input' (--forward)"
        )
    if forward == "model_input" and name == contract.TEXT:
        raise SettingError(
            "expected forward='original' for a bundle of texts: M_L has a tokenizer of its own"
        )


def _is_prepared(described: contract.InputDescription) -> bool:
    """Return whether an input is a colour picture that something else has made ready.

    Numbers, series and sounds come as the model takes them: they are the originals.
    """
    shape = described.shape
    return len(shape) == _PICTURE_RANK and _COLOURS in (shape[1], shape[3])


class Failover:
    """Several servers of one model, of which the first available one answers; safe for threads.

    The preferred server comes first. The servers share a call's deadline: each may use an equal
    part of the time left, the last one all of it. A request that one server refused is not sent to
    the next, which would refuse it too. Without any server a `SettingError` is raised.
    """

    def __init__(self, models: Sequence[CloudModel]) -> None:
        if not models:
            raise SettingError("expected at least one cloud address, got none")
        self.models = tuple(models)
        self.model = models[0].model
        self.takes_files = models[0].takes_files
        self.deadline_s = models[0].deadline_s

    def infer(
        self, rows: npt.NDArray[Any], *, deadline_s: float | None = None, **call: Any
    ) -> CloudAnswers:
        """Send a batch, with the arguments of `CloudModel.infer`; raise the last server's error."""
        end_s = monotonic() + (self.deadline_s if deadline_s is None else deadline_s)
        closed = [model for model in self.models if not model.breaker.is_open]
        # Where all circuits are open, the first one's error has the details.
        candidates = closed or self.models[:1]
        errors: list[CloudError] = []
        for place, model in enumerate(candidates):
            left_s = (end_s - monotonic()) / (len(candidates) - place)
            if left_s <= 0:
                break
            try:
                return model.infer(rows, deadline_s=left_s, **call)
            except CloudRejectedError:
                raise
            except CloudError as error:
                errors.append(error)
        raise errors[-1] if errors else CloudUnavailableError("no time was left for any server")

    def close(self) -> None:
        """Close the connections to all servers."""
        for model in self.models:
            model.close()


class Tier:
    """Another cascade as the large model: M_S -> M_M -> M_L, all but the last on this machine.

    The deadlines are those of that cascade. An input that M_M answers because M_L is unreachable
    counts as answered, with the reason attached.

    Args:
        cascade: The cascade of M_M and M_L; closed with this object.
        labels: M_S's class names; M_M's are mapped to them by name.

    Raises:
        SettingError: The two models have different classes.
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
                "expected the middle cascade to have the same classes, they differ in "
                f"{', '.join(odd[:5])}: export both from models of one data set"
            )

    def infer(
        self,
        rows: npt.NDArray[Any],
        *,
        deadline_s: float | None = None,
        request_id: str | None = None,
        **_: Any,
    ) -> CloudAnswers:
        """Answer a batch with the middle cascade, whose gate needs no confidences of M_S.

        Raises:
            CloudRejectedError: The inputs do not fit the middle model.
            CloudError: The middle cascade's policy is to raise.
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
            request_bytes=0,  # that link has a budget of its own
            compute_s=answers[0].timings.edge_s + answers[0].timings.cloud_s,
            errors=tuple(answer.error for answer in answers),
        )

    def close(self) -> None:
        """Close the middle cascade."""
        self.cascade.close()
