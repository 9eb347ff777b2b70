"""The layouts in which data sets are published on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from edge_runtime.names import what_is
from train.data.labelled import LabelledData
from train.data.layouts import binary, folders, tables
from train.errors import DataError

_SHOWN = 4


class Layout(NamedTuple):
    """A layout of a folder.

    Attributes:
        matches: Whether a folder has the layout, by the names in it.
        read: The splits of such a folder, by name.
    """

    matches: Callable[[Path], bool]
    read: Callable[[Path], dict[str, LabelledData]]


TABLES: Final = Layout(tables.matches, tables.read)
IMAGE_FOLDER: Final = Layout(folders.matches_image_folder, folders.read_image_folder)
LAYOUTS: Final = (
    Layout(binary.matches_cifar, binary.read_cifar),
    Layout(binary.matches_idx, binary.read_idx),
    Layout(folders.matches_tiny_imagenet, folders.read_tiny_imagenet),
    Layout(folders.matches_food101, folders.read_food101),
    TABLES,
    IMAGE_FOLDER,
)
"""The special ones first: a folder of pictures is the most general."""


def layout_of(folder: Path) -> Layout | None:
    """Return the layout of a folder, or None."""
    return next((layout for layout in LAYOUTS if layout.matches(folder)), None)


def read_folder(folder: Path) -> dict[str, LabelledData]:
    """Return the splits of a folder, whichever layout it has.

    Raises:
        DataError: It has none of them, or its files are damaged.
    """
    layout = layout_of(folder)
    if layout is not None:
        return layout.read(folder)
    names = sorted(p.name for p in folder.iterdir())
    kind = what_is(folder)
    if "which --" in kind:
        raise DataError(f"expected data in {folder}, got {kind}: name a folder or table of data")
    found = ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
    raise DataError(
        f"expected parquet, csv or jsonl files, folders of pictures, idx files or CIFAR batches in "
        f"{folder}, found {found or 'nothing'}"
    )
