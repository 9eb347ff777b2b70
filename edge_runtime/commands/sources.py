"""The inputs of `run`, one after another: files, tables, standard input, videos and cameras."""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TextIO

import numpy as np

from edge_runtime import contract
from edge_runtime.errors import DependencyError, InputError
from edge_runtime.files import one_line
from edge_runtime.inputs.pictures import PICTURES, find_inputs, read_input
from edge_runtime.names import file_name
from edge_runtime.reading import SMALL, open_arrays, open_regular, parse_json

STDIN: Final = Path("-")
VIDEOS: Final = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
_LINES: Final = frozenset({".jsonl", ".ndjson"})
_TABLES: Final = {".csv": ",", ".tsv": "\t"}
_FIELDS: Final = ("text", "image", "input")
"""Keys of an object in a line of JSON: a text, a picture's file, or numbers."""
_LABELS: Final = frozenset({"label", "labels", "target", "class"})
"""Columns and arrays that hold the right answers."""


class Item(NamedTuple):
    """One input: its name, its row in a file of several, and the function that reads it."""

    name: str
    row: int | None
    read: Callable[[], Any]


class Sources:
    """Reads the inputs of a bundle row by row, so that memory does not grow with a file.

    Args:
        described: The bundle's input.
        every: Of a video or camera, one frame in so many is read.
    """

    def __init__(self, described: contract.InputDescription, every: int = 1) -> None:
        self._takes_texts = described.name == contract.TEXT
        self._is_vector = len(described.shape) == 2  # noqa: PLR2004 - batch and features
        self._rank = len(described.shape)
        self._every = every

    def files(self, paths: Iterable[Path]) -> Iterator[Item]:
        """Yield the inputs of files and folders; a file that cannot be read is one of them."""
        for path in paths:
            if path == STDIN:
                yield from _guarded("-", lambda: self._lines("-", sys.stdin, Path()))
                continue
            for file in find_inputs([path]):
                yield from _guarded(file_name(file), partial(self._file, file))

    def frames(self, source: int | str, name: str) -> Iterator[Item]:
        """Yield the frames of a camera, by its number, or of a video file, as RGB."""
        try:
            import cv2
        except ImportError:
            raise DependencyError("opencv-python-headless", "reading videos", "video") from None
        capture = cv2.VideoCapture(source)
        try:
            if not capture.isOpened():
                raise InputError(
                    f"expected a video or camera that OpenCV can open, {name} does not open: check "
                    "its path or number"
                )
            number = -1
            while capture.grab():  # decodes none of the frames that are left out
                number += 1
                if number % self._every == 0:
                    is_read, frame = capture.retrieve()
                    if is_read:
                        picture = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                        yield Item(name, number, partial(_given, picture))
            if number < 0:
                raise InputError(f"expected frames in {name}, got none: check the file or camera")
        finally:
            capture.release()

    def _file(self, path: Path) -> Iterator[Item]:
        suffix, name = path.suffix.lower(), file_name(path)
        if suffix in PICTURES:  # forwarded as the file it is
            yield Item(name, None, partial(Path, path))
        elif suffix in VIDEOS and path.is_file():
            yield from self.frames(str(path), name)
        elif suffix in {".npy", ".npz"} and path.is_file():
            yield from self._arrays(path, name)
        elif suffix in _TABLES or suffix in _LINES:
            with _open_text(path) as file:
                if suffix in _LINES:
                    yield from self._lines(name, file, path.parent)
                else:
                    yield from self._table(name, file, _TABLES[suffix])
        else:
            yield Item(name, None, partial(read_input, path))

    def _arrays(self, path: Path, name: str) -> Iterator[Item]:
        if path.suffix.lower() == ".npy":
            array = _mapped(path)
            if array is None or array.ndim != self._rank:
                yield Item(name, None, partial(read_input, path))
                return
            yield from (Item(name, row, partial(_given, np.array(a))) for row, a in _rows(array))
            return
        try:
            with open_arrays(path) as arrays:
                names = [one for one in arrays.files if one.lower() not in _LABELS | {"y"}]
                if len(names) != 1:
                    raise InputError(
                        f"expected one array of inputs in {path}, got "
                        f"{', '.join(names[:5]) or 'none'}: save it by itself"
                    )
                array = arrays[names[0]]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise _unreadable(path, error) from None
        if array.ndim == self._rank - 1:
            array = array[None]
        yield from (Item(name, row, partial(_given, a)) for row, a in _rows(array))

    def _lines(self, name: str, file: TextIO, folder: Path) -> Iterator[Item]:
        """Yield lines of JSON, or texts, rows of numbers or names of files, as the bundle takes."""
        row = -1
        while line := file.readline(SMALL):
            row += 1
            if line := line.strip():
                yield Item(name, row, partial(self._line, line, folder))

    def _line(self, line: str, folder: Path) -> Any:
        if line[0] in "{[":
            try:
                value = parse_json(line)
            except ValueError as error:
                if not self._takes_texts:  # a text may begin with a bracket
                    raise InputError(
                        f"expected JSON in the line ({one_line(error, 80)}): mend it"
                    ) from None
            else:
                return _value(value, folder)
        if self._takes_texts:
            return line
        return _numbers(line.split(",")) if self._is_vector else folder / line

    def _table(self, name: str, file: TextIO, delimiter: str) -> Iterator[Item]:
        first = file.readline(SMALL)
        if ";" in first and delimiter not in first:
            delimiter = ";"
        head = next(csv.reader([first], delimiter=delimiter), [])
        has_head = not head or (
            _column(head) is not None if self._takes_texts else not _are_numbers(head)
        )
        columns = self._columns(name, head, has_head=has_head)
        rows = csv.reader(file if has_head else _chain(first, file), delimiter=delimiter)
        for row, cells in enumerate(rows):
            if cells:
                yield Item(name, row, partial(self._cells, cells, columns))

    def _columns(self, name: str, head: list[str], *, has_head: bool) -> list[int]:
        if not self._takes_texts:
            labels = [cell.strip().lower() in _LABELS and has_head for cell in head]
            return [place for place, is_label in enumerate(labels) if not is_label]
        place = _column(head) if has_head else (0 if len(head) == 1 else None)
        if place is None:
            raise InputError(
                f"expected a column 'text' in {name}, got {', '.join(head)[:80]}: name it in the "
                "first line"
            )
        return [place]

    def _cells(self, cells: list[str], columns: list[int]) -> Any:
        try:
            chosen = [cells[place] for place in columns]
        except IndexError:
            raise InputError(
                f"expected {max(columns) + 1} cells in the row, got {len(cells)}: complete it"
            ) from None
        return chosen[0] if self._takes_texts else _numbers(chosen)


def _guarded(name: str, read: Callable[[], Iterator[Item]]) -> Iterator[Item]:
    """Yield the items, and an error on the way as the last one: other files are not affected."""
    try:
        yield from read()
    except (OSError, csv.Error, UnicodeError) as error:
        yield Item(name, None, partial(_raise, _unreadable(name, error)))
    except InputError as error:
        yield Item(name, None, partial(_raise, error))


def _raise(error: InputError) -> NoReturn:
    raise error


def _given(value: Any) -> Any:
    return value


def _rows(array: Any) -> Iterator[tuple[int, Any]]:
    return enumerate(array) if array.ndim else iter([(0, array)])


def _mapped(path: Path) -> Any:
    """Return the array of a file without reading it, or None: `read_input` says why."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError):
        return None
    return array if isinstance(array, np.ndarray) else None  # an archive may bear any name


def _open_text(path: Path) -> TextIO:
    return io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="")


def _value(value: Any, folder: Path) -> Any:
    """Return the input that a line of JSON stands for."""
    if not isinstance(value, dict):
        return value
    found = [key for key in _FIELDS if key in value]
    if len(found) != 1:
        raise InputError(
            f"expected one of the keys {', '.join(_FIELDS)} in a line, got "
            f"{', '.join(map(str, value))[:80] or 'none'}: rename one"
        )
    content = value[found[0]]
    if found[0] != "image":
        return content
    if not isinstance(content, str):
        raise InputError(f"expected the name of a file as image, got {str(content)[:40]}: mend it")
    return folder / content


def _numbers(cells: list[str]) -> list[float]:
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError as error:
        raise InputError(f"expected numbers in the row ({one_line(error)}): mend it") from None
    whole = [cell.strip().lstrip("+-").isdecimal() for cell in cells]
    return [int(number) for number in numbers] if all(whole) else numbers


def _are_numbers(cells: list[str]) -> bool:
    try:
        return bool([float(cell) for cell in cells])
    except ValueError:
        return False


def _column(head: list[str]) -> int | None:
    names = [cell.strip().lower() for cell in head]
    return names.index("text") if "text" in names else None


def _chain(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest


def _unreadable(name: object, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    reason = getattr(error, "strerror", None) or one_line(error, 120)
    return InputError(f"expected a readable file at {name} ({reason}): check it")
