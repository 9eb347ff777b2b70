"""Names of classes and of files, in the one form in which they are compared, written and shown."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from edge_runtime.reading import read_text

BUNDLE_FILE = "bundle.json"
_CONFIG = "config.json"
_FILES = {
    ".onnx": "an ONNX file, which --onnx takes",
    ".pt2": "a program of torch.export, which --program takes",
    ".pt": "a file of PyTorch weights, of which `train convert` makes a checkpoint",
    ".pth": "a file of PyTorch weights, of which `train convert` makes a checkpoint",
    ".safetensors": "a file of weights: name the checkpoint's folder",
    ".zip": "a zip archive: unpack it first",
    ".gz": "a compressed file: unpack it first",
    ".tar": "an archive: unpack it first",
    ".csv": "a table, which --data takes",
    ".jsonl": "a table, which --data takes",
    ".parquet": "a table, which --data takes",
}


def what_is(path: Path | str) -> str:
    """Say what is at a path where something else was expected, and which flag takes it."""
    path = Path(path)
    if path.is_dir():
        return _folder({entry.name for entry in path.iterdir()}, path)
    if path.name == BUNDLE_FILE:
        return "the description of a bundle: name its folder"
    return _FILES.get(path.suffix.lower(), "a file of another kind") if path.exists() else "nothing"


def _folder(names: set[str], path: Path) -> str:
    kinds = {
        "a bundle, which --bundle takes": (path / BUNDLE_FILE).is_file(),
        "a model's folder, which --checkpoint takes": _CONFIG in names,
        "a folder with an ONNX file: --onnx takes the file": any(
            name.endswith(".onnx") for name in names
        ),
        "a folder of folders: --data takes data": any((path / name).is_dir() for name in names),
        "an empty folder": not names,
    }
    return next((kind for kind, fits in kinds.items() if fits), "a folder of something else")


def class_name(text: str) -> str:
    """Return a class name in Unicode's form NFC, in which equal names are equal texts.

    Some systems write an accent as a character of its own (NFD), in the names of folders above all.
    """
    return unicodedata.normalize("NFC", text)


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names in form NFC, with its number behind each that occurs more than once.

    An answer travels as a name, and ImageNet has two cranes: they become `crane (134)` and
    `crane (517)`, on the device and in the cloud alike. Unique names stay as they are.
    """
    named = tuple(map(class_name, names))
    while len(counts := Counter(named)) < len(named):
        named = tuple(f"{n} ({i})" if counts[n] > 1 else n for i, n in enumerate(named))
    return named


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
