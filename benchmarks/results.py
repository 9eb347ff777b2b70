"""A result folder: `results.json`, `samples.csv.gz`, `report.md` and the pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.errors import CheckError
from benchmarks.samples import Samples, read_samples
from benchmarks.summary import differences, summarise
from benchmarks.timing import percentiles_ms
from benchmarks.wording import findings, table

RESULTS = "results.json"
SAMPLES = "samples.csv.gz"
REPORT = "report.md"
_TOLERANCE = 1e-9


def figures(variants: dict[str, Samples]) -> dict[str, Any]:
    """Compute every figure that is printed from the per-sample rows."""
    return {
        "variants": {
            name: {"figures": summarise(samples), **_times(samples)}
            for name, samples in variants.items()
        },
        "tuned_minus": {
            base: differences(variants["tuned"], variants[base])
            for base in variants
            if base != "tuned"
        },
    }


def _times(samples: Samples) -> dict[str, dict[str, dict[str, float]]]:
    if np.isnan(samples.total_ms).all():
        return {}  # no call was timed
    return {"latency": _latency(samples)}


def _latency(samples: Samples) -> dict[str, dict[str, float]]:
    deferred = samples.deferred > 0
    return {
        "edge": percentiles_ms(samples.total_ms[~deferred] / 1e3),
        "deferred": percentiles_ms(samples.total_ms[deferred] / 1e3),
    }


def write_json(path: Path, content: Any) -> None:
    """Write JSON in one step, so that a kill leaves the old file or the new one."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def write_report(
    folder: Path,
    results: dict[str, Any],
    pictures: Sequence[Path],
    *,
    further: Sequence[str] = (),
) -> None:
    """Write the page that people read.

    Args:
        folder: Where to.
        results: The content of `results.json`.
        pictures: What was drawn.
        further: Lines that stand between findings and pictures.
    """
    hardware = results["hardware"]
    lines = [
        f"# Cascade on {results['data']}",
        "",
        f"{results['test_size']} test inputs, seeds {results['seeds']}, "
        f"{hardware['cores']} cores of {hardware['processor']}, "
        f"revision {results['git_revision']}. Mean over seeds with 95 % bootstrap intervals.",
        "",
        f"    {results['command']}",
        "",
        table(results),
        "",
        *(f"- {line}" for line in results["findings"]),
        "",
        *([*further, ""] if further else []),
        *(f"![{picture.stem}]({picture.name})\n" for picture in pictures),
    ]
    (folder / REPORT).write_text("\n".join(lines), encoding="utf-8")


def check(folder: Path) -> int:
    """Recompute every printed figure of a result folder; return how many were compared.

    Raises:
        CheckError: A file is missing, or a figure differs.
    """
    return check_content(folder, read_results(folder), figures(read_samples(folder / SAMPLES)))


def read_results(folder: Path, name: str = RESULTS) -> dict[str, Any]:
    """Read a JSON file of a result folder, `results.json` or another.

    Raises:
        CheckError: It is missing or damaged.
    """
    try:
        content: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckError(f"expected {name} in {folder}: {error}") from None
    return content


def check_content(folder: Path, results: dict[str, Any], recomputed: dict[str, Any]) -> int:
    """Compare what was written with what follows from the samples; return how many figures.

    Raises:
        CheckError: A figure, a sentence or the page differs.
    """
    compared = compare(recomputed, results, where=str(folder))
    if findings(results) != results.get("findings"):
        raise CheckError(f"{folder}: the findings do not follow from the figures: run it again")
    report = folder / REPORT
    if not report.is_file() or table(results) not in report.read_text(encoding="utf-8"):
        raise CheckError(f"{report} does not show the table of {RESULTS}: run it again")
    return compared


def compare(fresh: Any, stored: Any, where: str) -> int:
    """Return how many numbers of `fresh` stand in `stored` to rounding.

    Raises:
        CheckError: One differs or is missing.
    """
    if isinstance(fresh, dict):
        if not isinstance(stored, dict):
            raise CheckError(f"{where}: expected an object, got {stored!r}")
        return sum(compare(fresh[key], stored.get(key), f"{where}: {key}") for key in fresh)
    both_nan = isinstance(stored, float) and math.isnan(stored) and math.isnan(fresh)
    if both_nan or (isinstance(stored, (int, float)) and abs(fresh - stored) <= _TOLERANCE):
        return 1
    raise CheckError(f"{where}: the samples give {fresh!r}, the file says {stored!r}")
