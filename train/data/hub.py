"""Data sets by their Hugging Face name; of a large one only what is asked for is fetched."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from train.data.labelled import LabelledData
from train.data.layouts import tables
from train.errors import DataError

_BUFFER = 10_000
_MARGIN = 2  # a fifth may be carved out of train, and the rest is picked class by class


def load(name: str, limit: int | None = None) -> dict[str, LabelledData]:
    """Return the splits of a data set by name.

    Args:
        name: As `datasets.load_dataset` takes it.
        limit: How many inputs a split will be used. They are streamed then, out of a shuffled
            buffer, instead of downloading the whole.

    Raises:
        DataError: It does not open, or has no inputs or labels.
    """
    import datasets

    datasets.disable_progress_bars()
    with _told(f"'digits', a folder, a table or a Hugging Face data set, {name!r}"):
        found = datasets.load_dataset(name, streaming=limit is not None)
        if limit is not None:
            found = {split: _first(rows, limit) for split, rows in found.items()}
    return {split: tables.from_table(table, split) for split, table in found.items()}


def open_tables(name: str, config: str | None = None) -> dict[str, Any]:
    """Return split -> table of a data set by name, whatever its columns are.

    Args:
        name: As `datasets.load_dataset` takes it.
        config: Its configuration, where it has several.

    Raises:
        DataError: It does not open.
    """
    import datasets

    datasets.disable_progress_bars()
    with _told(f"a folder, a file or a Hugging Face data set, {name!r}"):
        return dict(datasets.load_dataset(name, config))


@contextlib.contextmanager
def _told(expected: str) -> Iterator[None]:
    """Raise what the `datasets` library raises as one line of ours."""
    try:
        with _quiet_retries():
            yield
    except Exception as error:  # noqa: BLE001 - datasets raises many unrelated classes
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"expected {expected} does not open: {reason}: check the name, the path and the "
            "connection"
        ) from None


def _first(rows: Any, limit: int) -> Any:
    """Return a table of some rows of a stream, with its pictures as they are stored."""
    import datasets

    for column, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    picked = rows.shuffle(seed=0, buffer_size=_BUFFER).take(_MARGIN * limit)
    return datasets.Dataset.from_list(list(picked), features=rows.features)


@contextlib.contextmanager
def _quiet_retries() -> Iterator[None]:
    """Keep the hub's client from printing each of its retries: the error that follows says it."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
