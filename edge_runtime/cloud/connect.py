"""Makes the right kind of cloud of what `Cascade.open` was given."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edge_runtime import contract
from edge_runtime.cloud.answers import Cloud
from edge_runtime.edge import Edge
from edge_runtime.errors import SettingError

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
        from edge_runtime.cloud.tier import Tier

        return Tier(cloud, edge.labels)
    _check_forward(forward, edge.metadata.input.name)
    from edge_runtime.cloud.failover import Failover
    from edge_runtime.cloud.model import CloudModel

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
