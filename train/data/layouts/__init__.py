"""The folder layouts that data sets are published in; each module reads one.

A module has `matches(folder)`, which looks at names only, and `read(folder)`, which returns the
splits it finds as split name -> `LabelledData`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from train.data.labelled import LabelledData
from train.data.layouts import food101, idx, image_folder, python_batches, tables, tiny_imagenet
from train.errors import DataError

Found = dict[str, LabelledData]


# The particular ones first: a folder of pictures is the most general.
LAYOUTS: Final = (
    python_batches,
    idx,
    tiny_imagenet,
    food101,
    tables,
    image_folder,
)


def layout_of(folder: Path) -> Any:
    """Return the module that reads a folder, or None."""
    return next((layout for layout in LAYOUTS if layout.matches(folder)), None)


def read_folder(folder: Path) -> Found:
    """Return the splits of a folder in whichever layout it has.

    Raises:
        DataError: It has none of them, or its files are damaged.
    """
    layout = layout_of(folder)
    if layout is not None:
        return layout.read(folder)
    raise DataError(
        f"expected parquet, csv or jsonl files, folders of pictures, idx files or CIFAR batches in "
        f"{folder}, found {_glimpse(folder)}"
    )


def _glimpse(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir())
    return ", ".join(names[:4]) + (" ..." if len(names) > 4 else "") if names else "nothing"  # noqa: PLR2004
