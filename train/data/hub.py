"""Data sets by their Hugging Face name; with a limit, only a part is downloaded."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.files import one_line
from train.data.labelled import LabelledData
from train.data.layouts import tables
from train.data.layouts.columns import of_dataset
from train.errors import DataError

_BUFFER = 10_000
_MARGIN = 2  # a fifth may be carved out of train, and the rest is limited class by class

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_FILES = re.compile(
    r"\.(parquet|csv|tsv|jsonl?|npz?|txt|zip|tar|t?gz|onnx|pt2?|pth|safetensors|png|jpe?g|wav)$"
)
_REACHED_S = 3.0


def is_name(text: str) -> bool:
    """Return whether what is no file or folder here may be a hub's NAME or OWNER/NAME.

    Not so with the suffix of a file, or inside a folder that is here: that is a mistyped path.
    """
    if not _NAME.fullmatch(text) or _FILES.search(text.lower()):
        return False
    return "/" not in text or not Path(text).parent.is_dir()


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

    with _explain_failure(name):
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

    with _explain_failure(name):
        return dict(datasets.load_dataset(name, config))


@contextlib.contextmanager
def _explain_failure(name: str) -> Iterator[None]:
    """Raise the errors of the `datasets` library as `DataError`s of one line, and print nothing."""
    import datasets

    datasets.disable_progress_bars()
    # The hub's client would print each of its retries: the error that follows is enough.
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    host = _unreachable_host()
    try:
        with contextlib.nullcontext() if host is None else _offline():
            yield
    except Exception as error:  # noqa: BLE001 - datasets raises many unrelated classes
        reason = f"{host} is not reachable" if host else one_line(error, 200)
        raise DataError(
            f"expected a data set, {name!r} is no file or folder here, and as the name of a "
            f"Hugging Face data set it does not open: {reason}: check the path or the name, the "
            "connection, and that the cache (HF_HOME) can be written"
        ) from None
    finally:
        logger.setLevel(level)


def _unreachable_host() -> str | None:
    """Return the hub's host where it takes no connection; None where a proxy has to find out."""
    from huggingface_hub import constants

    address = urllib.parse.urlsplit(constants.ENDPOINT)
    host = address.hostname or ""
    if {"https", "http", "all"} & urllib.request.getproxies().keys():
        return None
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((host, port), _REACHED_S).close()
    except OSError:
        return host
    return None


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Take data sets from the cache alone: the hub's client would retry for half a minute."""
    import datasets
    from huggingface_hub import constants

    places: tuple[Any, ...] = (constants, datasets.config)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _first(rows: Any, limit: int) -> Any:
    """Return a table of some rows of a stream; its pictures stay encoded."""
    import datasets

    for column, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    picked = rows.shuffle(seed=0, buffer_size=_BUFFER).take(_MARGIN * limit)
    return datasets.Dataset.from_list(list(picked), features=rows.features)
