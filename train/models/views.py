"""Further views of a picture, by the name that the gate contract gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import Tensor

from edge_runtime import contract

VIEWS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    contract.MIRROR: lambda pixel_values: pixel_values.flip(-1)
}
"""Each takes pixel_values float [n, channels, height, width], as the gate in a graph does: the
processor's crop need not be symmetric."""
