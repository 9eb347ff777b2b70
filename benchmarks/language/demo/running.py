"""The figures of cascades that were really asked, beside the same checkpoints in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.cascade.report import REPORT, compare
from benchmarks.cascade.summary import mean_figure
from benchmarks.errors import CheckError
from benchmarks.language.demo import cascades as asking
from benchmarks.language.demo.cascades import Asked, Shipped, read_asked, shipped
from benchmarks.language.demo.serving import Ran
from benchmarks.language.demo.table import best_tuned, rows_of
from benchmarks.timing import percentiles_ms
from train.comparison.samples import Samples

_CALLS = {
    "edge: first token": ("first_token_ms", False),
    "edge: answer": ("text_ms", False),
    "deferred: verdict": ("verdict_ms", True),
    "deferred: text of M_L": ("text_ms", True),
}
_PERCENTILES = ("p50_ms", "p90_ms", "p99_ms")


def pairs(samples: Samples, chosen: Mapping[str, str], deferral: float) -> tuple[Shipped, ...]:
    """Return which pairs are shipped, by what validation says."""
    return shipped(best_tuned(samples, deferral), chosen)


def described(
    samples: Samples, ran: Ran, which: Sequence[Shipped], deferral: float
) -> dict[str, Any]:
    """Return what is told of running cascades: `figures`, and what they took."""
    return {
        "figures": figures(samples, ran.asked, which, deferral),
        "files": {name: dict(took) for name, took in ran.files.items()},
    }


def figures(
    samples: Samples, asked: Mapping[str, Asked], which: Sequence[Shipped], deferral: float
) -> dict[str, dict[str, Any]]:
    """Return everything that is printed of running cascades and follows from the samples.

    Args:
        samples: What the checkpoints said in PyTorch.
        asked: What the cascades said, by name.
        which: What they are made of.
        deferral: The deferral ratio they are calibrated for.
    """
    return {one.name: _figures(samples, asked[one.name], one, deferral) for one in which}


def _figures(samples: Samples, seen: Asked, one: Shipped, deferral: float) -> dict[str, Any]:
    offline = rows_of(samples, one.model, one.kind, deferral)
    offline_deferred = offline.deferred.T > 0
    return {
        "prompts": seen.deferred.size,
        "deferred": int(seen.deferred.sum()),
        "deferral ratio in PyTorch": float(offline_deferred.mean()),
        "deferral ratio": mean_figure(seen.deferred.T.astype(float)),
        "joint accuracy in PyTorch": float(offline.answer_quality.mean()),
        "joint accuracy": mean_figure(seen.right.T.astype(float)),
        "decisions that differ": int((seen.deferred != offline_deferred).sum()),
        "texts of M_S that differ": int((~seen.same_small).sum()),
        "texts of M_L that differ": int((~seen.same & seen.deferred).sum()),
        "tokens saved": float(1 - seen.tokens.sum() / seen.whole_tokens.sum()),
        "decisions changed by it": int((seen.deferred != seen.whole_deferred).sum()),
        "times": {name: percentiles_ms(ms / 1e3) for name, ms in times_ms(seen).items()},
    }


def times_ms(seen: Asked) -> dict[str, npt.NDArray[np.float64]]:
    """Return the times of a cascade's calls by kind, NaN where a call was not timed."""
    return {
        name: getattr(seen, times)[seen.deferred == deferred].astype(float)
        for name, (times, deferred) in _CALLS.items()
    }


def page(content: Mapping[str, Any]) -> list[str]:
    """Return the lines that people read.

    Args:
        content: `figures`, and `files`: by name the bytes sent a prompt and the bundle's size.
    """
    return [
        "## Through bundle, runtime and server",
        "",
        "The same checkpoints exported and calibrated, the test prompts asked through "
        "`edge_runtime.Cascade`, M_L behind `cloud_stub` on loopback. Times in ms are "
        "p50 / p90 / p99 of calls made one by one.",
        "",
        table(content),
        "",
        *(f"- {line}" for line in findings(content["figures"])),
    ]


def table(content: Mapping[str, Any]) -> str:
    """Render the cascades as a Markdown table, one column each."""
    columns = content["figures"]
    rows = [["", *columns], ["---"] * (len(columns) + 1)]
    first = next(iter(columns.values()))
    shown = [name for name in first if name != "times"]
    rows += [[name, *(_cell(name, c[name]) for c in columns.values())] for name in shown]
    for name in first["times"]:
        times = (column["times"][name] for column in columns.values())
        rows.append([name, *(" / ".join(f"{t[p]:.2f}" for p in _PERCENTILES) for t in times)])
    files = [content["files"][name] for name in columns]
    rows.append(["bytes sent a prompt", *(f"{file['sent_bytes']:.0f}" for file in files)])
    rows.append(["graph, KB", *(f"{file['graph_bytes'] / 1e3:.0f}" for file in files)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    if isinstance(value, int):
        return str(value)
    return f"{value:.1%}" if name == "tokens saved" else f"{value:.3f}"


def findings(cascades: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say in words whether the cascades are what was measured in PyTorch, and what stopping saves.

    Args:
        cascades: Of `figures`.
    """
    return [_sentence(name, found) for name, found in cascades.items()]


def _sentence(name: str, found: Mapping[str, Any]) -> str:
    times = found["times"]
    edge, cloud = (times[call]["p50_ms"] for call in ("edge: answer", "deferred: text of M_L"))
    return (
        f"{name}: of {found['prompts']} decisions {found['decisions that differ']} differ from "
        f"those in PyTorch, of as many texts of M_S {found['texts of M_S that differ']}, of "
        f"{found['deferred']} of M_L {found['texts of M_L that differ']}. Ending a generation "
        f"whose deferral is certain saves {found['tokens saved']:.1%} of M_S's tokens and changes "
        f"{found['decisions changed by it']} decisions. An answer of the device takes "
        f"{edge:.1f} ms, one of M_L {cloud:.1f} (medians)."
    )


def check(
    folder: Path,
    samples: Samples,
    content: Mapping[str, Any],
    chosen: Mapping[str, str],
) -> int:
    """Recompute what is printed of running cascades; return how many figures were compared.

    Args:
        folder: The result folder.
        samples: What the checkpoints said in PyTorch.
        content: What was printed of the demo.
        chosen: Which rows validation chooses.

    Raises:
        CheckError: A figure or the page differs.
    """
    if "cascades" not in content:  # older results were measured in PyTorch alone
        return 0
    deferral = content["target_deferral"]
    asked = read_asked(folder / asking.FILE)
    which = pairs(samples, chosen, deferral)
    names = [one.name for one in which]
    if not names == list(asked) == list(content["cascades"]["figures"]):
        raise CheckError(f"{folder}: validation chooses {names}, {asking.FILE} has {list(asked)}")
    fresh = figures(samples, asked, which, deferral)
    compared = compare(fresh, content["cascades"]["figures"], where=f"{folder}: cascades")
    report = (folder / REPORT).read_text(encoding="utf-8")
    if "\n".join(page(content["cascades"])) not in report:
        raise CheckError(f"{folder / REPORT} does not show the running cascades: run it again")
    return compared
