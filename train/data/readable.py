"""Finds the pictures of a data set that do not decode, and leaves them out where asked."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from train.data.labelled import LabelledData, Splits
from train.errors import DataError, UnreadableError


def without_unreadable(splits: Splits) -> Splits:
    """Return splits without the pictures that do not decode, and print how many those are.

    Every picture is decoded once. The splits are drawn before, so that the others stay where they
    are whichever pictures are damaged.

    Raises:
        DataError: A split has no other pictures.
    """
    names = ("train", "validation", "test")
    found = {name: unreadable(getattr(splits, name)) for name in names}
    reasons = [reason for part in found.values() for reason in part.values()]
    if not reasons:
        return splits
    print(f"note: {len(reasons)} pictures are skipped, e.g. {reasons[0]}", file=sys.stderr)
    return Splits(*(_without(getattr(splits, name), found[name], name) for name in names))


def unreadable(part: LabelledData) -> dict[int, str]:
    """Return row -> why it does not decode, of the pictures of a split; texts always do."""
    if part.kind != "image":
        return {}

    def reason(row: int) -> str | None:
        try:
            part.inputs[row]
        except UnreadableError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves the interpreter's lock
        reasons = pool.map(reason, range(len(part)))
        return {row: why for row, why in enumerate(reasons) if why is not None}


@contextlib.contextmanager
def count_unreadable(splits: Splits) -> Iterator[None]:
    """Say how many pictures do not decode, where the first one ends a command.

    Raises:
        UnreadableError: In place of one that names a single picture.
    """
    try:
        yield
    except UnreadableError as error:
        parts = (splits.train, splits.validation, splits.test)
        count = sum(len(unreadable(part)) for part in parts)
        raise UnreadableError(
            f"{count} of {sum(map(len, parts))} pictures do not decode; {error}, or leave them out "
            "with --skip-unreadable"
        ) from None


def _without(part: LabelledData, found: dict[int, str], split: str) -> LabelledData:
    rows = np.setdiff1d(np.arange(len(part)), np.array(list(found), np.int64))
    if not rows.size:
        raise DataError(f"expected pictures that decode in {split}, none of {len(part)} does")
    return part.take(rows)
