"""Data sets by their Hugging Face name; with a limit, only a part is downloaded."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from edge_runtime.files import one_line
from train.data.labelled import LabelledData
from train.data.layouts import tables
from train.data.layouts.columns import of_dataset
from train.errors import DataError

_BUFFER = 10_000
_MARGIN = 2  # a fifth may be carved out of train, and the rest is limited class by class


def load(name: str, limit: int | None = None) -> dict[str, LabelledData]:
    """Return the splits of a data set by name.

    Args:
        name: Name for `datasets.load_dataset`.
        limit: Number of inputs per split that will be used. With it, the inputs are streamed out of
            a shuffled buffer; else the whole data set is downloaded.

    Raises:
        DataError: It does not open, or has no inputs or labels.
    """
    import datasets

    with _explain_failure(f"'digits', a folder, a table or a Hugging Face data set, {name!r}"):
        found = datasets.load_dataset(name, streaming=limit is not None)
        if limit is not None:
            found = {split: _first(rows, limit) for split, rows in found.items()}
    columns = {split: of_dataset(table, split) for split, table in found.items()}
    return {split: tables.from_columns(table, split) for split, table in columns.items()}


def open_tables(name: str, config: str | None = None) -> dict[str, Any]:
    """Return split -> table of a data set by name, and by configuration if it has several.

    Raises:
        DataError: It does not open.
    """
    import datasets

    with _explain_failure(f"a folder, a file or a Hugging Face data set, {name!r}"):
        return dict(datasets.load_dataset(name, config))


@contextlib.contextmanager
def _explain_failure(expected: str) -> Iterator[None]:
    """Raise the errors of the `datasets` library as `DataError`s of one line, and print nothing."""
    import datasets

    datasets.disable_progress_bars()
    # The hub's client would print each of its retries: the error that follows is enough.
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except Exception as error:  # noqa: BLE001 - datasets raises many unrelated classes
        raise DataError(
            f"expected {expected} does not open: {one_line(error, 200)}: check the name, the "
            "connection, and that the cache (HF_HOME) can be written"
        ) from None
    finally:
        logger.setLevel(level)


def _first(rows: Any, limit: int) -> Any:
    """Return a table of some rows of a stream; its pictures stay encoded."""
    import datasets

    for column, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    picked = rows.shuffle(seed=0, buffer_size=_BUFFER).take(_MARGIN * limit)
    return datasets.Dataset.from_list(list(picked), features=rows.features)
