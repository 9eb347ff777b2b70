"""Teaches the small model to know when it is wrong: losses, models, data, and the commands.

Names are imported on first use (PEP 562), so that importing `train.data` does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import edge_runtime  # first of all: it switches off what libraries report

if TYPE_CHECKING:
    from train.losses.gatekeeper import GatekeeperLoss, gatekeeper_loss
    from train.losses.linear import linear_gatekeeper_loss

_HOMES = {
    "GatekeeperLoss": "losses.gatekeeper",
    "gatekeeper_loss": "losses.gatekeeper",
    "linear_gatekeeper_loss": "losses.linear",
}

__all__ = ["GatekeeperLoss", "gatekeeper_loss", "linear_gatekeeper_loss"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return edge_runtime.__version__
    if name not in _HOMES:
        raise AttributeError(f"module 'train' has no attribute {name!r}")
    return getattr(importlib.import_module(f"train.{_HOMES[name]}"), name)
