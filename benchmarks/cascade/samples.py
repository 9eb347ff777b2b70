"""The per-sample file of a result folder: one row per input, variant and seed."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.errors import CheckError
from edge_runtime.reading import read_gzip

Floats = npt.NDArray[np.float64]

_COLUMNS = (
    "variant",
    "seed",
    "id",
    "confidence",
    "small_quality",
    "large_quality",
    "deferred",
    "answer_quality",
    "source",
    "total_ms",
)


_MOST_BYTES = 64 << 20
"""Of the unpacked table: ten times the largest of a benchmark here."""


@dataclass(frozen=True)
class Samples:
    """One variant's test set; rows are inputs, columns are seeds.

    Attributes:
        ids: Input ids [n].
        seeds: Training seeds [k].
        confidence: Confidence g(x) of M_S, float64 [n, k].
        small_quality: 1 where M_S is right, [n, k].
        large_quality: 1 where M_L is right, [n, k].
        deferred: 1 where the gate deferred at the calibrated threshold, [n, k].
        answer_quality: 1 where the cascade's answer was right, [n, k].
        source: Source of the answer, text [n, k].
        total_ms: Time of the call, [n, k]; NaN where the input went in a batch.
    """

    ids: tuple[str, ...]
    seeds: tuple[int, ...]
    confidence: Floats
    small_quality: Floats
    large_quality: Floats
    deferred: Floats
    answer_quality: Floats
    source: npt.NDArray[np.str_]
    total_ms: Floats

    @classmethod
    def joined(cls, parts: list[Samples]) -> Samples:
        """Put the columns of several seeds side by side."""
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts], axis=1)
            for name in _COLUMNS[3:]
        }
        return cls(parts[0].ids, tuple(s for part in parts for s in part.seeds), **arrays)


def write_samples(path: Path, variants: Mapping[str, Samples]) -> None:
    """Write all variants to one gzipped CSV file; floats round-trip exactly."""
    # Without a time stamp the same rows give the same file.
    with gzip.GzipFile(path, "w", mtime=0) as zipped:
        file = io.TextIOWrapper(zipped, newline="", encoding="utf-8", write_through=True)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for variant, samples in variants.items():
            for column, seed in enumerate(samples.seeds):
                for row, identifier in enumerate(samples.ids):
                    values = [getattr(samples, name)[row, column] for name in _COLUMNS[3:]]
                    writer.writerow([variant, seed, identifier, *map(_cell, values)])


def _cell(value: object) -> str:
    return str(value) if isinstance(value, str) else f"{value:.17g}"


def read_samples(path: Path) -> dict[str, Samples]:
    """Read the file that `write_samples` wrote.

    Raises:
        CheckError: The file is missing or malformed.
    """
    try:
        text = read_gzip(path, limit=_MOST_BYTES).decode()
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        variants = dict.fromkeys(row["variant"] for row in rows)
        return {name: _variant([r for r in rows if r["variant"] == name]) for name in variants}
    except (OSError, EOFError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise CheckError(f"expected the per-sample file {path}: {error}") from None


def _variant(rows: list[dict[str, str]]) -> Samples:
    parts = []
    for seed in dict.fromkeys(row["seed"] for row in rows):
        mine = [row for row in rows if row["seed"] == seed]
        arrays: dict[str, Any] = {
            name: np.array([row[name] if name == "source" else float(row[name]) for row in mine])
            for name in _COLUMNS[3:]
        }
        columns = {name: values[:, None] for name, values in arrays.items()}
        parts.append(Samples(tuple(row["id"] for row in mine), (int(seed),), **columns))
    return Samples.joined(parts)
