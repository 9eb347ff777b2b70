"""Names of classes and of files, in the one form in which they are compared, written and shown."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from edge_runtime.reading import read_text


def class_name(text: str) -> str:
    """Return a class name in Unicode's form NFC, in which equal names are equal texts.

    Some systems write an accent as a character of its own (NFD), in the names of folders above all.
    """
    return unicodedata.normalize("NFC", text)


def read_class_names(path: Path) -> tuple[str, ...]:
    """Return the class names in a text file: its lines as they are, even empty ones.

    Raises:
        OSError: The file cannot be read; see `edge_runtime.reading.read_text`.
        ValueError: The file is not UTF-8.
    """
    # Not `splitlines`: a name may hold other separators, e.g. U+2028.
    text = read_text(path).replace("\r\n", "\n").removesuffix("\n")
    return tuple(map(class_name, text.split("\n")))


def file_name(path: Path | str) -> str:
    r"""Return the name of a file as text that can be written as UTF-8: other bytes as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
