"""Labelled pictures or texts, and their splits."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.names import unique_names
from train.errors import DataError

Picture = npt.NDArray[np.uint8]
Kind = Literal["image", "text"]
_SAMPLED = 64
NO_LABEL = -100
"""Label of an input without a label; torch's losses ignore it by default."""


@dataclass(frozen=True)
class LabelledData:
    """One split.

    Attributes:
        inputs: Pictures uint8 [height, width, 3], decoded on access, or texts.
        labels: int64 [n], index into `label_names`, or `NO_LABEL`.
        ids: A stable name of each input.
        label_names: Class names.
        kind: Kind of the inputs.
    """

    inputs: Sequence[Any]
    labels: npt.NDArray[np.int64]
    ids: tuple[str, ...]
    label_names: tuple[str, ...]
    kind: Kind = "image"

    def __post_init__(self) -> None:
        object.__setattr__(self, "label_names", unique_names(self.label_names))
        if not len(self.inputs) == len(self.labels) == len(self.ids) >= 1:
            raise DataError(f"expected at least one input with a label, got {len(self.labels)}")
        known = self.labels[self.labels != NO_LABEL]
        if known.size and (known.min() < 0 or known.max() >= len(self.label_names)):
            raise DataError(
                f"expected labels from 0 to {len(self.label_names) - 1}, got "
                f"{int(known.min())} to {int(known.max())}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def array(self) -> Picture:
        """Return all pictures as uint8 [n, height, width, 3].

        Raises:
            DataError: Their sizes differ.
        """
        pictures = [self.inputs[i] for i in range(len(self))]
        sizes = {picture.shape for picture in pictures}
        if len(sizes) > 1:
            raise DataError(f"expected pictures of one size, got {sorted(sizes)[:3]} ...")
        return np.stack(pictures)

    def limited(self, limit: int) -> LabelledData:
        """Keep at most `limit` inputs, evenly spaced."""
        return self.take(_spread(len(self), limit))

    def take(self, rows: npt.NDArray[Any]) -> LabelledData:
        """Return the given rows as a split of its own."""
        return LabelledData(
            Selection(self.inputs, rows),
            self.labels[rows],
            tuple(self.ids[i] for i in rows),
            self.label_names,
            self.kind,
        )


class LazySequence(Sequence[Any]):
    """A sequence that makes its items on access; a slice is one, too."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Selection(self, np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.item(int(index) % len(self))

    @abstractmethod
    def item(self, index: int) -> Any:
        """Return the item at an index from 0."""


class Selection(LazySequence):
    """Some inputs of a sequence."""

    def __init__(self, inputs: Sequence[Any], rows: npt.NDArray[Any]) -> None:
        self._inputs = inputs
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def item(self, index: int) -> Any:
        """Return the input at a row of the selection."""
        return self._inputs[int(self._rows[index])]


class Chain(LazySequence):
    """Sequences of inputs, joined."""

    def __init__(self, *parts: Sequence[Any]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def item(self, index: int) -> Any:
        """Return the input at a row of the joined sequences."""
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part][index - int(self._ends[part]) + len(self._parts[part])]


def join(parts: Sequence[LabelledData]) -> LabelledData:
    """Return splits of one kind and with the same labels as one split."""
    first = parts[0]
    return LabelledData(
        Chain(*(part.inputs for part in parts)),
        np.concatenate([part.labels for part in parts]),
        tuple(i for part in parts for i in part.ids),
        first.label_names,
        first.kind,
    )


@dataclass(frozen=True)
class Splits:
    """A data set: fit on `train`, choose and calibrate on `validation`, report on `test`."""

    train: LabelledData
    validation: LabelledData
    test: LabelledData

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""
        return self.train.label_names

    def fingerprint(self) -> str:
        """Return a hash of all splits: class names, ids, labels and a sample of the inputs."""
        digest = hashlib.sha256("\n".join(self.label_names).encode())
        for part in (self.train, self.validation, self.test):
            digest.update("\n".join(part.ids).encode())
            digest.update(part.labels.tobytes())
            for i in range(0, len(part), max(1, len(part) // _SAMPLED)):
                item = part.inputs[i]
                digest.update(item.encode() if isinstance(item, str) else item.tobytes())
        return digest.hexdigest()

    def limited(self, limit: int | None) -> Splits:
        """Keep at most `limit` inputs of each split, evenly spaced."""
        if limit is None:
            return self
        return Splits(*(p.limited(limit) for p in (self.train, self.validation, self.test)))


def _spread(size: int, limit: int) -> npt.NDArray[np.intp]:
    # Image folders are sorted by class: the first rows would be a single class.
    kept = min(size, limit)
    return np.arange(kept) * size // max(kept, 1)


def split_stratified(
    labels: npt.NDArray[np.int64], share: float, seed: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return (chosen, rest): `share` of every class at random, both sorted."""
    draws = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        rows = draws.permutation(np.flatnonzero(labels == label))
        # The rest also keeps one of every class that has two.
        chosen.append(rows[: min(max(1, round(share * rows.size)), rows.size - 1)])
    picked = np.sort(np.concatenate(chosen))
    return picked, np.setdiff1d(np.arange(labels.size), picked)
