"""The per-sample file of running cascades: every prompt through bundle, runtime and server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.errors import CheckError
from edge_runtime.files import write_atomically
from edge_runtime.reading import open_arrays

FILE = "cascade-samples.npz"


@dataclass(frozen=True, eq=False)
class Transcript:
    """A cascade's answers to n test prompts; arrays are [k, n], one row per training seed.

    Attributes:
        confidence: The bundle's confidence in the whole answer, float32.
        deferred: Whether the graph's gate deferred to M_L, bool.
        whole_deferred: The gate's decision if M_S always generates its whole answer, bool.
        right: Whether the user's text is right by the task's rule, bool.
        same_small: Whether M_S's text is the one in PyTorch, bool.
        same: Whether the user's text is the one of its model in PyTorch, bool.
        tokens: Tokens that M_S generated; it stops once its deferral is certain, int32.
        whole_tokens: Tokens that M_S generates without that stop, int32.
        first_token_ms: Time from the call to M_S's first token, M_S alone; NaN if not timed.
        verdict_ms: Time from the call to the decision; NaN if not timed.
        text_ms: Time from the call to the text, M_L's if deferred; NaN if not timed.
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
    def joined(cls, parts: Sequence[Transcript]) -> Transcript:
        """Return the rows of several seeds as one transcript."""
        return cls(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in _ARRAYS})


_ARRAYS = tuple(field.name for field in fields(Transcript))


def save_transcripts(path: Path, transcripts: Mapping[str, Transcript]) -> None:
    """Write the transcripts of all cascades by name, in one step."""
    arrays: dict[str, Any] = {"names": np.array(list(transcripts))}
    for i, transcript in enumerate(transcripts.values()):
        arrays |= {f"{i}/{name}": getattr(transcript, name) for name in _ARRAYS}
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def read_transcripts(path: Path) -> dict[str, Transcript]:
    """Read the file that `save_transcripts` wrote.

    Raises:
        CheckError: The file is missing or damaged.
    """
    try:
        with open_arrays(path) as file:
            return {
                str(name): Transcript(**{array: file[f"{i}/{array}"] for array in _ARRAYS})
                for i, name in enumerate(file["names"])
            }
    except Exception as error:  # noqa: BLE001 - a damaged archive raises nearly anything
        raise CheckError(f"expected the samples of running cascades in {path}: {error}") from None
