"""A model of somebody else as it came."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx

from export.reference import TOLERANCE

Pixels = npt.NDArray[Any]
Run = Callable[[Pixels], Pixels]
"""Takes inputs [n, ...] and returns the original's logits, float32 [n, classes]."""


@dataclass(frozen=True, eq=False)
class Original:
    """A model as it came.

    Attributes:
        place: Its file.
        files: All its files.
        model: Its graph, which has the value `logits`.
        logits: The name of that.
        element: Its type, of `onnx.TensorProto`.
        weights: The folder of the graph's external weights, or None.
        run: The original itself.
        runs_in: What a message calls it by.
        tolerance: How far it rounds; see `export.reference`.
    """

    place: Path
    files: tuple[Path, ...]
    model: onnx.ModelProto
    logits: str
    element: int
    weights: Path | None
    run: Run
    runs_in: str
    tolerance: float = TOLERANCE
