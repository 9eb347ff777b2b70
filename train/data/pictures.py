"""Pictures of a data set that are decoded on access."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime.errors import InputError
from edge_runtime.inputs.pictures import decode_picture
from train.data.labelled import LazySequence, Picture
from train.errors import DataError, UnreadableError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})


class LazyPictures(LazySequence):
    """Pictures uint8 [height, width, 3], decoded on access."""

    def item(self, index: int) -> Picture:
        """Decode a picture.

        Raises:
            UnreadableError: It does not decode.
        """
        file, name = self._source(index)
        try:
            return decode_picture(file, name)
        except InputError as error:
            raise UnreadableError(f"a picture of the data is unreadable: {error}") from None

    @abstractmethod
    def _source(self, index: int) -> tuple[Path | bytes, str]:
        """Return the file or the bytes of a picture, and its name for messages."""


class PictureFiles(LazyPictures):
    """Pictures in files of their own.

    Args:
        paths: The files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def _source(self, index: int) -> tuple[Path | bytes, str]:
        return self._paths[index], str(self._paths[index])


class EncodedPictures(LazyPictures):
    """Encoded pictures in a column of an Arrow table.

    Args:
        column: Their bytes.
        name: Name of the table for messages.
    """

    def __init__(self, column: Any, name: str) -> None:
        self._column = column
        self._name = name

    def __len__(self) -> int:
        return len(self._column)

    def _source(self, index: int) -> tuple[Path | bytes, str]:
        content = self._column[index].as_py()
        if content is None:
            raise DataError(f"expected a picture in row {index} of {self._name}, it is empty")
        return content, f"row {index} of {self._name}"
