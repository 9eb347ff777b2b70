"""The per-sample file of a comparison, from which all figures follow, and their Markdown table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.files import write_atomically
from edge_runtime.reading import open_arrays
from train.comparison.figures import FIGURES, Candidate
from train.comparison.scores import SPLITS
from train.errors import DataError


@dataclass(frozen=True)
class Samples:
    """Every candidate of a comparison on validation and test.

    Attributes:
        ids: By split: input ids [n].
        large: By split: 1 where M_L is right, bool [n].
        candidates: By split, then by name.
        seeds: The training seeds, the rows of a candidate.
        extra: Further arrays that the figures need, by name.
    """

    ids: Mapping[str, npt.NDArray[np.str_]]
    large: Mapping[str, npt.NDArray[np.bool_]]
    candidates: Mapping[str, Mapping[str, Candidate]]
    seeds: tuple[int, ...]
    extra: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


def save_samples(path: Path, samples: Samples) -> None:
    """Write the per-sample file."""
    names = list(samples.candidates["test"])
    arrays: dict[str, Any] = {"names": np.array(names), "seeds": np.array(samples.seeds)}
    for split in SPLITS:
        found = samples.candidates[split]
        arrays[f"{split}/ids"] = samples.ids[split]
        arrays[f"{split}/large"] = samples.large[split]
        for i, name in enumerate(names):
            arrays[f"{split}/{i}/uncertainty"] = found[name].uncertainty
            arrays[f"{split}/{i}/right"] = np.packbits(found[name].right, axis=1)
            arrays[f"{split}/{i}/meta"] = np.array(
                [found[name].passes, found[name].is_probability, found[name].is_logarithm], float
            )
    arrays |= {f"extra/{name}": values for name, values in samples.extra.items()}
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def read_samples(path: Path) -> Samples:
    """Read a file that `save_samples` wrote.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        with open_arrays(path) as file:
            names = [str(name) for name in file["names"]]
            return Samples(
                ids={s: file[f"{s}/ids"] for s in SPLITS},
                large={s: file[f"{s}/large"] for s in SPLITS},
                candidates={s: _read_candidates(file, s, names) for s in SPLITS},
                seeds=tuple(file["seeds"].tolist()),
                extra={
                    name.removeprefix("extra/"): file[name]
                    for name in file.files
                    if name.startswith("extra/")
                },
            )
    except Exception as error:  # noqa: BLE001 - a damaged archive raises nearly anything
        raise DataError(f"expected the samples of a comparison in {path}: {error}") from None


def _read_candidates(file: Any, split: str, names: list[str]) -> dict[str, Candidate]:
    found = {}
    for i, name in enumerate(names):
        doubt = file[f"{split}/{i}/uncertainty"]
        right = np.unpackbits(file[f"{split}/{i}/right"], axis=1, count=doubt.shape[1])
        passes, *flags = file[f"{split}/{i}/meta"].tolist()  # older files have one flag
        found[name] = Candidate(doubt, right.astype(bool), passes, *map(bool, flags))
    return found


def describe_machine(hardware: Mapping[str, Any]) -> str:
    """Return the machine's processors as text; results of older sweeps name no GPUs."""
    names = [f"{hardware['cores']} cores of {hardware['processor']}", *hardware.get("gpus", [])]
    return " and ".join(names)


def render_table(
    compared: Mapping[str, Any],
    controls: Collection[str],
    columns: Mapping[str, Mapping[str, str]],
) -> str:
    """Return the figures of a split as a Markdown table; differences from the control in points.

    Args:
        compared: The result of `compare`.
        controls: The rows that others are compared with; they show no difference.
        columns: Columns before the figures: heading -> row -> text.
    """
    head = ["", *columns, *FIGURES]
    rows = [head, ["---"] * len(head)]
    for name, row in compared.items():
        values = [_value(row["figures"][figure]["value"]) for figure in FIGURES]
        if name not in controls:
            values = [
                f"{value}{_gain(row['minus_control'][figure])}"
                for value, figure in zip(values, FIGURES, strict=True)
            ]
        rows.append([name, *(texts[name] for texts in columns.values()), *values])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _value(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _gain(figure: Mapping[str, float]) -> str:
    if np.isnan(figure["value"]):
        return ""
    clear = figure["low"] > 0 or figure["high"] < 0
    return f" ({figure['value'] * 100:+.1f}{'*' if clear else ''})"
