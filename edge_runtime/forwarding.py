"""A batch as the edge model takes it and, where it came from picture files, as it is forwarded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InputError
from edge_runtime.inputs import PICTURES, read_input
from edge_runtime.intake import Intake
from edge_runtime.pictures import decode_picture

_HEADER_BYTES: Final = 512
"""Most of a request beside its inputs and confidences: names, shapes, parameters."""
_ROW_BYTES: Final = 24
"""Most of a confidence in words, with a length before the input."""


class Batch(NamedTuple):
    """Inputs of one call.

    Attributes:
        rows: As the edge model takes them.
        encoded: The bytes of each picture file; None where the inputs did not come from files.
    """

    rows: npt.NDArray[Any]
    encoded: npt.NDArray[Any] | None

    def forwarded(self, asked: npt.NDArray[np.intp], *, as_files: bool) -> npt.NDArray[Any]:
        """Return what is sent of some rows: files as they came where that is understood."""
        whole = self.encoded if as_files and self.encoded is not None else self.rows
        return whole if len(asked) == len(whole) else whole[asked]


def most_bytes(forwarded: npt.NDArray[Any]) -> int:
    """Return the most that a request of these rows takes."""
    if forwarded.dtype == object:
        contents = sum(len(i.encode() if isinstance(i, str) else i) for i in forwarded)
    else:
        contents = forwarded.nbytes
    return contents + _HEADER_BYTES + _ROW_BYTES * len(forwarded)


def read_batch(given: Any, intake: Intake) -> Batch:
    """Return inputs as one batch; `Path`s among them are read.

    Raises:
        InputError: They are none that can be batched, or a file cannot be read.
        DependencyError: Pillow is missing.
    """
    if not (isinstance(given, list | tuple) and any(isinstance(one, Path) for one in given)):
        return Batch(intake.rows(given), None)
    read = [_read(one) for one in given]
    rows = intake.rows([value for value, _ in read])
    files = [data for _, data in read if data is not None]
    if len(files) < len(read):
        return Batch(rows, None)
    encoded = np.empty(len(files), object)
    encoded[:] = files
    return Batch(rows, encoded)


def _read(given: Any) -> tuple[Any, bytes | None]:
    if not isinstance(given, Path):
        return given, None
    if given.suffix.lower() not in PICTURES:
        return read_input(given), None
    try:
        data = given.read_bytes()
    except OSError as error:
        raise InputError(
            f"expected a readable picture at {given} ({error.strerror}): check the path"
        ) from None
    return decode_picture(data, str(given)), data
