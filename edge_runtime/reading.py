"""Reads small text files that others wrote: regular files only, of bounded size and depth."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SMALL = 16 * 2**20
"""Bytes that a settings file, a list of names or a document may have."""
ARRAYS = 1 << 30
"""Bytes that the arrays of a file may have in memory."""
_DEPTH = 64
# A text without an end is one match too: else each quote in it would be tried as a beginning.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
_TOML_TEXTS = re.compile(
    r""""{3}(?:[^\\]|\\.)*?(?:"{3}|\\?\Z)|'{3}.*?(?:'{3}|\Z)|"""
    r""""(?:[^"\\\n]|\\.)*(?:"|\\?\Z|(?=\n))|'[^'\n]*(?:'|\Z|(?=\n))|#[^\n]*""",
    re.DOTALL,
)
_LONG_KEY = re.compile(rf"(?<![\w\"-])(?:[\w\"-]+[ \t]*\.[ \t]*){{{_DEPTH}}}")


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading.

    Raises:
        OSError: The file is missing, not readable, or a pipe, a device or a folder.
    """
    # A pipe without a writer would block the call to open.
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(f"expected a regular file at {path}, got something else")
    return file


def read_bytes(path: Path, *, limit: int = SMALL) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file. A pipe or a device is refused before anything is read from it.
        limit: Bytes that the file may have.

    Raises:
        OSError: The file is missing, not readable, not a regular file, or larger than `limit`.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"expected at most {limit} bytes in {path}, it has more")
    return content


def read_gzip(path: Path, *, limit: int = SMALL) -> bytes:
    """Return what a gzip file unpacks to.

    Raises:
        OSError: As `read_bytes` raises it, or the file is damaged.
        EOFError: The file was cut short.
        ValueError: It unpacks to more than `limit` bytes.
    """
    try:
        with open_regular(path) as packed, gzip.GzipFile(fileobj=packed) as file:
            content = file.read(limit + 1)
    except zlib.error as error:  # it has no base class in common with the others
        raise OSError(str(error)) from None
    if len(content) > limit:
        raise ValueError(f"it unpacks to more than {limit} bytes")
    return content


@contextlib.contextmanager
def open_arrays(path: Path, *, limit: int = ARRAYS) -> Iterator[Any]:
    """Open a `.npz` file of numpy, without pickles, for the block.

    Raises:
        OSError: As `read_bytes` raises it.
        ValueError: Its arrays have more than `limit` bytes together.
        zipfile.BadZipFile: It is another kind of file.
    """
    with open_regular(path) as file:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > limit:
            raise ValueError(f"it unpacks to {size} bytes, more than {limit}")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            yield arrays


def read_text(path: Path, *, limit: int = SMALL) -> str:
    """Return the text of a UTF-8 file without its byte-order mark.

    Raises:
        OSError: As `read_bytes` raises it.
        ValueError: The file is not UTF-8.
    """
    return read_bytes(path, limit=limit).decode("utf-8-sig")


def read_json(path: Path, *, limit: int = SMALL, depth: int = _DEPTH) -> Any:
    """Return the value in a JSON file.

    Raises:
        OSError: As `read_bytes` raises it.
        ValueError: The file is not JSON in UTF-8, or is nested deeper than `depth`.
    """
    return parse_json(read_text(path, limit=limit), depth=depth)


def parse_json(text: str, *, depth: int = _DEPTH) -> Any:
    """Return the value that a JSON text stands for.

    Raises:
        ValueError: The text is not JSON, or is nested deeper than `depth`.
    """
    _require_depth(text, depth)
    return json.loads(text)


def read_toml(path: Path, *, limit: int = SMALL // 16, depth: int = _DEPTH) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        OSError: As `read_bytes` raises it.
        ValueError: The file is not TOML in UTF-8, or is nested deeper than `depth`.
    """
    text = read_text(path, limit=limit)
    # tomllib takes the square of a dotted key's length: one of 32,000 parts kept it for 49 s.
    bare = _TOML_TEXTS.sub('""', text)
    _require_depth(bare, depth)
    if _LONG_KEY.search(bare):
        raise ValueError(f"nested deeper than {_DEPTH} levels")
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _require_depth(text: str, depth: int) -> None:
    if text.count("[") + text.count("{") <= depth:
        return
    level = 0
    for match in _STRUCTURE.finditer(text):
        level += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if level > depth:
            raise ValueError(f"nested deeper than {depth} levels")
