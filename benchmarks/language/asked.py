"""The per-sample file of cascades that were really asked: bundle, runtime and server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.errors import CheckError

FILE = "cascade-samples.npz"


@dataclass(frozen=True, eq=False)
class Asked:
    """What a cascade said to n test prompts; arrays are [k, n], a row a training seed.

    Attributes:
        confidence: The bundle's own, of the whole answer, float32.
        deferred: Whether the graph's gate asked for M_L, bool.
        whole_deferred: The decision where M_S generates its whole answer in any case, bool.
        right: Whether the text that the user got is right, judged by the task, bool.
        same_small: Whether M_S says what it says in PyTorch, bool.
        same: Whether the text that the user got is what its model says in PyTorch, bool.
        tokens: How many M_S generated: a deferral that is certain ends it, int32.
        whole_tokens: How many without that, int32.
        first_token_ms: M_S alone, from the call to its first token; NaN where it was not timed.
        verdict_ms: From the call to the decision, likewise.
        text_ms: From the call to the text, M_L's where it was deferred, likewise.
    """

    confidence: npt.NDArray[np.float32]
    deferred: npt.NDArray[np.bool_]
    whole_deferred: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]
    same_small: npt.NDArray[np.bool_]
    same: npt.NDArray[np.bool_]
    tokens: npt.NDArray[np.int32]
    whole_tokens: npt.NDArray[np.int32]
    first_token_ms: npt.NDArray[np.float32]
    verdict_ms: npt.NDArray[np.float32]
    text_ms: npt.NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence[Asked]) -> Asked:
        """Put the rows of several seeds under each other."""
        return cls(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in _ARRAYS})


_ARRAYS = tuple(field.name for field in fields(Asked))


def save_asked(path: Path, asked: Mapping[str, Asked]) -> None:
    """Write what every cascade said, in one step."""
    arrays: dict[str, Any] = {"names": np.array(list(asked))}
    for i, one in enumerate(asked.values()):
        arrays |= {f"{i}/{name}": getattr(one, name) for name in _ARRAYS}
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(path)


def read_asked(path: Path) -> dict[str, Asked]:
    """Read what `save_asked` wrote.

    Raises:
        CheckError: The file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {
                str(name): Asked(**{array: file[f"{i}/{array}"] for array in _ARRAYS})
                for i, name in enumerate(file["names"])
            }
    except Exception as error:  # noqa: BLE001 - a damaged archive raises nearly anything
        raise CheckError(f"expected the samples of running cascades in {path}: {error}") from None
