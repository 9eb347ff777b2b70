"""The result folder of a cascade: `results.json`, `samples.csv.gz`, `report.md` and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cascade import pictures
from benchmarks.cascade.outcome import Outcome, percent
from benchmarks.cascade.samples import Samples, read_samples, write_samples
from benchmarks.cascade.summary import TUNED, figures
from benchmarks.documents import FINDINGS, Document, read_json, write_json
from benchmarks.tables import markdown
from edge_runtime.cli.help import GLOSSARY
from edge_runtime.files import write_atomically
from train.comparison.figures import ACCURACY, AREA

RESULTS = "results.json"
SAMPLES = "samples.csv.gz"
REPORT = "report.md"
_SATURATED = 0.98
_SMALL_GAP = 0.08
_CALLS = (
    "Calls to M_L and bytes are those of 1,000 inputs. M_L's latency is that of a deferred call,",
    "which runs M_S first; M_L ran on the same machine, so add the round trip of your network.",
)
_LATENCIES = ("p50_ms", "p90_ms", "p99_ms")
_MEANINGS = {
    "untuned": "M_S before tuning",
    "control": "M_S after as many further steps with plain cross-entropy",
    "random": "M_S tuned with as many recorded pictures, picked at random",
    TUNED: "M_S tuned with the Gatekeeper loss",
}
_HARVEST = {
    "control": "M_S after as many further steps without the harvest",
    TUNED: "M_S tuned with the harvest of its deferred pictures",
}


def write(
    folder: Path,
    results: Mapping[str, Any],
    variants: Mapping[str, Samples],
    sent_bytes: Mapping[str, float],
) -> dict[str, Any]:
    """Write the whole folder; return the content of `results.json`.

    Args:
        folder: The result folder.
        results: What was run, and where.
        variants: The samples by variant.
        sent_bytes: Bytes sent to M_L by variant, averaged over all inputs.
    """
    content = {**results, **figures(variants)}
    for variant, number in sent_bytes.items():
        content["variants"][variant]["bytes_sent"] = number
    content[FINDINGS] = findings(content)
    write_samples(folder / SAMPLES, variants)
    pictures.draw(variants, folder)
    write_atomically(folder / REPORT, page(folder, content))
    write_json(folder / RESULTS, content)
    return content


def documents(folder: Path) -> Iterator[Document]:
    """Yield the results of a folder with what follows from its samples.

    Raises:
        CheckError: A file is missing or damaged.
    """
    content = read_json(folder / RESULTS)
    yield Document(
        file=folder / RESULTS,
        content=content,
        expected={**figures(read_samples(folder / SAMPLES)), FINDINGS: findings(content)},
        page=folder / REPORT,
        render=partial(page, folder),
    )


def draw(folder: Path) -> list[Path]:
    """Draw the pictures of a folder anew from its samples."""
    return pictures.draw(read_samples(folder / SAMPLES), folder)


def page(
    folder: Path,
    results: Mapping[str, Any],
    *,
    outcome: Outcome | None = None,
    further: Sequence[str] = (),
) -> str:
    """Render the page that people read.

    Args:
        folder: The result folder, whose pictures are shown.
        results: Content of `results.json`.
        outcome: Outcome to lead with; that of the tuned variant by default.
        further: Lines between the findings and the pictures.
    """
    hardware = results["hardware"]
    lines = [
        f"# Cascade on {results['data']}",
        "",
        *lead(results, outcome),
        "",
        f"{results['test_size']} test inputs, seeds {results['seeds']}, "
        f"{hardware['cores']} cores of {hardware['processor']}, "
        f"revision {results['git_revision']}. Mean over seeds.",
        "",
        f"    {results['command']}",
        "",
        "## Comparison of the trainings",
        "",
        *legend(results),
        "",
        f"In brackets: 95 % bootstrap intervals. The [glossary]({GLOSSARY}) defines every row.",
        "",
        table(results),
        "",
        *(f"- {line}" for line in results[FINDINGS]),
        "",
        *([*further, ""] if further else []),
        *(f"![{name}]({name}.png)\n" for name in pictures.NAMES if _is_drawn(folder, name)),
    ]
    return "\n".join(lines)


def _is_drawn(folder: Path, name: str) -> bool:
    return (folder / f"{name}.png").is_file()


def summary(
    folder: Path,
    results: Mapping[str, Any],
    *,
    outcome: Outcome | None = None,
    further: Sequence[str] = (),
) -> str:
    """Return the text that a command prints at its end; for the arguments see `page`."""
    return "\n".join(
        [
            "",
            *lead(results, outcome),
            "",
            f"{results['test_size']} test inputs of {results['data']}, mean over the training "
            f"seeds {', '.join(map(str, results['seeds']))}.",
            "",
            "What did the tuning change? Compare the columns:",
            "",
            *legend(results),
            "",
            table(results),
            "",
            "In brackets: 95 % bootstrap intervals. Joint accuracy is that of the cascade with a",
            "share of the inputs deferred; docs/glossary.md defines every row.",
            "",
            *(f"- {line}" for line in conclusions(results)),
            "",
            *([*further, ""] if further else []),
            f"{folder}: models, bundles, pictures, and {REPORT} with every comparison "
            f"({results['wall_time_s']:.0f} s)",
        ]
    )


def lead(results: Mapping[str, Any], outcome: Outcome | None = None) -> list[str]:
    """Return the lines that say what the user gets; none where no call was timed."""
    if outcome is None:
        if "latency" not in results["variants"][TUNED]:
            return []
        outcome = Outcome.of(results["variants"][TUNED])
    models = (
        f"M_S is the small model on the device ({results['small']}, {outcome.training}), M_L the "
        f"large model in the cloud ({results['large']})."
    )
    return [outcome.sentence(), "", outcome.table(), "", models, *_CALLS]


def legend(results: Mapping[str, Any]) -> list[str]:
    """Return the meaning of each variant on a line."""
    meanings = _MEANINGS | (_HARVEST if "stream" in results else {})
    return [f"- {name}: {meanings[name]}" for name in results["variants"]]


def table(results: Mapping[str, Any]) -> str:
    """Render the comparison of the trainings as a Markdown table, one column per variant."""
    columns = results["variants"]
    first = next(iter(columns.values()))
    rows = [["", *columns]]
    rows += [[n, *(_cell(c["figures"][n]) for c in columns.values())] for n in first["figures"]]
    if "latency" in first:
        for source in ("edge", "deferred"):
            cells = [_latency_cell(column["latency"][source]) for column in columns.values()]
            rows.append([f"{source} latency p50 / p90 / p99, ms", *cells])
        sent = [f"{column['bytes_sent']:.0f}" for column in columns.values()]
        rows.append(["bytes sent per input", *sent])
    if "tokens_per_s" in first:
        rows.append(["tokens/s of M_S", *(f"{c['tokens_per_s']:.0f}" for c in columns.values())])
    return markdown(rows)


def _cell(figure: Mapping[str, float]) -> str:
    if math.isnan(figure["value"]):
        return "not defined"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _latency_cell(times: Mapping[str, float]) -> str:
    return " / ".join(f"{times[name]:.2f}" for name in _LATENCIES)


def findings(results: Mapping[str, Any]) -> list[str]:
    """Return the conclusions, then every difference with its interval, one sentence each."""
    return [
        *conclusions(results),
        *(
            _difference(name, base, figure)
            for base, differences in results["tuned_minus"].items()
            for name, figure in differences.items()
        ),
    ]


def conclusions(results: Mapping[str, Any]) -> list[str]:
    """Return what the figures mean for the user, good or bad."""
    control = results["tuned_minus"]["control"]
    area, s_d = control[AREA], control["s_d"]
    if s_d["low"] > 0 and area["high"] < 0:
        lines = ["s_d rose, but the user lost joint accuracy: do not ship this tuning."]
    elif area["low"] > 0:
        lines = ["Compared with the control, tuning raises the user's joint accuracy."]
    elif area["high"] < 0:
        lines = ["Compared with the control, tuning lowers the joint accuracy: ship the control."]
    else:
        lines = ["Compared with the control, tuning makes no difference beyond the noise."]
    stopped = results.get("stopped", {})
    lines += [f"The guard ended {training}: {reason}." for training, reason in stopped.items()]
    lines += _gap(next(iter(results["variants"].values()))["figures"])
    if results.get("training_accuracy", 0.0) > _SATURATED:
        lines.append(
            f"Before tuning, M_S was right on {percent(results['training_accuracy'], 1)} of its "
            "training pictures, so the loss had next to no wrong samples to teach from."
        )
    return lines


def _gap(values: Mapping[str, Mapping[str, float]]) -> list[str]:
    small, large = values[ACCURACY]["value"], values["acc(M_L)"]["value"]
    gap = (
        f"M_L is right on {percent(large, 1)} of the test inputs, M_S before tuning on "
        f"{percent(small, 1)}"
    )
    if large <= small:
        return [f"{gap}: deferring can only lose, and s_d is not defined. Take a better M_L."]
    if large - small < _SMALL_GAP:
        points = f"less than {100 * _SMALL_GAP:.0f} points apart"
        return [f"{gap}: {points}, so the trainings can differ only a little."]
    return []


def _difference(name: str, base: str, figure: Mapping[str, float]) -> str:
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
