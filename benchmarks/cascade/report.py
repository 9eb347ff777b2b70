"""A result folder: `results.json`, `samples.csv.gz`, `report.md` and the pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cascade.samples import Samples, read_samples
from benchmarks.cascade.summary import differences, summarise
from benchmarks.errors import CheckError
from benchmarks.timing import percentiles_ms
from edge_runtime.files import write_atomically

# MERGEDOC benchmarks/wording.py: 'Prints results: the table, and in words what it means.'
# MERGEDOC benchmarks/comparisons.py: 'Holds the results of a comparison to its per-sample file.'

RESULTS = "results.json"
SAMPLES = "samples.csv.gz"
REPORT = "report.md"
_TOLERANCE = 1e-9

Figures = dict[str, dict[str, float]]
_SATURATED = 0.98
_SMALL_GAP = 0.08
_LATENCIES = ("p50_ms", "p90_ms", "p99_ms")


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
    write_atomically(path, json.dumps(content, indent=2) + "\n")


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


def table(results: dict[str, Any]) -> str:
    """Render the results as a Markdown table, one column a variant."""
    variants = results["variants"]
    head = ["", *variants]
    rows = [head, ["---"] * len(head)]
    names = next(iter(variants.values()))["figures"]
    rows += [[name, *(_cell(v["figures"][name]) for v in variants.values())] for name in names]
    rows += _of_calls(variants) if "latency" in next(iter(variants.values())) else []
    rows += _of_tokens(variants) if "tokens_per_s" in next(iter(variants.values())) else []
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _of_calls(variants: dict[str, Any]) -> list[list[str]]:
    rows = []
    for source in ("edge", "deferred"):
        cells = [_latency_cell(v["latency"][source]) for v in variants.values()]
        rows.append([f"{source} latency p50 / p90 / p99, ms", *cells])
    rows.append(["bytes sent an input", *(f"{v['bytes_sent']:.0f}" for v in variants.values())])
    return rows


def _of_tokens(variants: dict[str, Any]) -> list[list[str]]:
    return [["tokens/s of M_S", *(f"{v['tokens_per_s']:.0f}" for v in variants.values())]]


def _cell(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _latency_cell(times: dict[str, float]) -> str:
    return " / ".join(f"{times[name]:.2f}" for name in _LATENCIES)


def findings(results: dict[str, Any]) -> list[str]:
    """Say in words what was found, win or not."""
    lines = _gap(next(iter(results["variants"].values()))["figures"])
    lines += [
        _sentence(name, base, figure)
        for base, figures in results["tuned_minus"].items()
        for name, figure in figures.items()
    ]
    if results.get("training_accuracy", 0.0) > _SATURATED:
        lines.append(
            f"Before tuning M_S was right on {results['training_accuracy']:.1%} of its training "
            "pictures: the loss finds next to no wrong samples to teach from."
        )
    control = results["tuned_minus"]["control"]
    area, s_d = control["area under joint accuracy"], control["s_d"]
    if s_d["low"] > 0 and area["high"] < 0:
        lines.append("s_d rose while the user lost joint accuracy: do not ship this tuning.")
    elif area["low"] > 0:
        lines.append("Against the control, the user gains joint accuracy.")
    elif area["high"] < 0:
        lines.append("Against the control, the user loses joint accuracy: ship the control.")
    else:
        lines.append("Against the control, the user's joint accuracy is the same within the noise.")
    return lines


def _gap(figures: Figures) -> list[str]:
    small, large = figures["acc(M_S)"]["value"], figures["acc(M_L)"]["value"]
    gap = f"M_L is right on {large:.1%} of the test, M_S before tuning on {small:.1%}"
    if large <= small:
        return [f"{gap}: deferring can only lose, and s_d is not defined. Take a better M_L."]
    if large - small < _SMALL_GAP:
        return [f"{gap}: less than {_SMALL_GAP:.0%} apart, there is little to gain by deferring."]
    return []


def _sentence(name: str, base: str, figure: dict[str, float]) -> str:
    if math.isnan(figure["value"]):
        return f"{name}: not defined for tuned or {base}."
    if figure["low"] > 0:
        verdict = "higher than"
    elif figure["high"] < 0:
        verdict = "lower than"
    else:
        verdict = "not distinguishable from"
    return (
        f"{name}: tuned is {verdict} {base} "
        f"({figure['value']:+.4f}, 95 % interval {figure['low']:+.4f} to {figure['high']:+.4f})."
    )


def require_following(
    folder: Path,
    fresh: Mapping[str, Any],
    content: Mapping[str, Any],
    *,
    words: Sequence[str],
    page: tuple[str, str],
) -> int:
    """Return how many figures were compared.

    Args:
        folder: The result folder.
        fresh: What follows from the samples.
        content: What was printed.
        words: What of it is compared as it is; the rest are numbers, compared to rounding.
        page: The name of the page that people read, and what it is to show.

    Raises:
        CheckError: Something differs, or the page is missing.
    """
    for name in words:
        if fresh[name] != content.get(name):
            raise CheckError(f"{folder}: {name} does not follow from the samples: run it again")
    numbers = {name: value for name, value in fresh.items() if name not in words}
    compared = compare(numbers, content, where=str(folder))
    path, text = folder / page[0], page[1]
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        raise CheckError(f"{path} does not show what the results say: run it again")
    return compared
