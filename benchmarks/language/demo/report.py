"""The result folder of `demo --task`: its tables and figures, and their recomputation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.cascade import report
from benchmarks.cascade.summary import mean_figure
from benchmarks.commands.cascade import DemoSettings
from benchmarks.errors import CheckError
from benchmarks.language.demo import transcripts as transcript_file
from benchmarks.language.demo.cascades import CascadeRuns, SmallModel, choose_small_models
from benchmarks.language.demo.table import KIND, TUNED, check_comparison, test_rows, variants
from benchmarks.language.demo.transcripts import Transcript, read_transcripts
from benchmarks.timing import percentiles_ms
from edge_runtime.errors import GatekeeperError
from train.comparison.samples import Samples, read_samples
from train.data.tasks import Task
from train.language.gathering import spoken
from train.language.results import RESULTS_FILE, SAMPLES_FILE
from train.language.rivals import CONTROL, UNTUNED

_CALLS = {
    "edge: first token": ("first_token_ms", False),
    "edge: answer": ("text_ms", False),
    "deferred: verdict": ("verdict_ms", True),
    "deferred: text of M_L": ("text_ms", True),
}
"""The times of a transcript by kind of call, and whether the call was deferred."""
_PERCENTILES = ("p50_ms", "p90_ms", "p99_ms")


def is_language(folder: Path) -> bool:
    """Return whether a result folder holds a comparison of language models."""
    return (folder / RESULTS_FILE).is_file()


def describe(settings: DemoSettings, task: Task, samples: Samples) -> dict[str, Any]:
    """Return the content of `results.json`, except for hardware, times and running cascades."""
    content = {
        "kind": "language",
        "data": task.name,
        "small": settings.small or "gemma from scratch",
        "large": settings.large or "gemma from scratch",
        "confidence": KIND,
        "tuned": variants(samples, settings.target_deferral)[1],
        "target_deferral": settings.target_deferral,
        "seeds": list(settings.seeds),
        "test_size": len(task.test),
        **_table_figures(samples, settings.target_deferral),
    }
    content["findings"] = report.findings(content)
    return content


def _table_figures(samples: Samples, deferral: float) -> dict[str, Any]:
    """Return the figures of the demo's table that follow from the per-sample file."""
    rows, tuned = variants(samples, deferral)
    content = report.figures(rows)
    for name, model in {UNTUNED: UNTUNED, CONTROL: CONTROL, TUNED: tuned}.items():
        rate = spoken(samples, "test", model)["tokens/s"]
        content["variants"][name]["tokens_per_s"] = rate
    return content


def describe_cascades(
    samples: Samples, runs: CascadeRuns, models: Sequence[SmallModel], deferral: float
) -> dict[str, Any]:
    """Return the figures of running cascades, and the sizes of their files."""
    return {
        "figures": _cascade_figures(samples, runs.transcripts, models, deferral),
        "files": {name: dict(sizes) for name, sizes in runs.files.items()},
    }


def _cascade_figures(
    samples: Samples,
    transcripts: Mapping[str, Transcript],
    models: Sequence[SmallModel],
    deferral: float,
) -> dict[str, dict[str, Any]]:
    """Return the figures of running cascades that follow from the samples.

    Args:
        samples: Answers of the checkpoints in PyTorch.
        transcripts: Transcripts of the cascades by name.
        models: The small models that ship.
        deferral: Deferral ratio that they are calibrated for.
    """
    return {
        model.name: _figures(samples, transcripts[model.name], model, deferral) for model in models
    }


def _figures(
    samples: Samples, transcript: Transcript, model: SmallModel, deferral: float
) -> dict[str, Any]:
    offline = test_rows(samples, model.model, model.kind, deferral)
    offline_deferred = offline.deferred.T > 0
    deferred = transcript.deferred
    return {
        "prompts": deferred.size,
        "deferred": int(deferred.sum()),
        "deferral ratio in PyTorch": float(offline_deferred.mean()),
        "deferral ratio": mean_figure(deferred.T.astype(float)),
        "joint accuracy in PyTorch": float(offline.answer_quality.mean()),
        "joint accuracy": mean_figure(transcript.right.T.astype(float)),
        "decisions that differ": int((deferred != offline_deferred).sum()),
        "texts of M_S that differ": int((~transcript.same_small).sum()),
        "texts of M_L that differ": int((~transcript.same & deferred).sum()),
        "tokens saved": float(1 - transcript.tokens.sum() / transcript.whole_tokens.sum()),
        "decisions changed by it": int((deferred != transcript.whole_deferred).sum()),
        "times": {name: percentiles_ms(ms / 1e3) for name, ms in times_ms(transcript).items()},
    }


def times_ms(transcript: Transcript) -> dict[str, npt.NDArray[np.float64]]:
    """Return the times of a cascade's calls by kind; NaN if a call was not timed."""
    return {
        name: getattr(transcript, times)[transcript.deferred == deferred].astype(float)
        for name, (times, deferred) in _CALLS.items()
    }


def cascade_page(content: Mapping[str, Any]) -> list[str]:
    """Return the lines of the page about running cascades.

    Args:
        content: The result of `describe_cascades`.
    """
    return [
        "## Through bundle, runtime and server",
        "",
        "The same checkpoints, exported and calibrated. The test prompts went through "
        "`edge_runtime.Cascade`, with M_L behind `cloud_stub` on loopback. Times in ms are "
        "p50 / p90 / p99 of single calls.",
        "",
        cascade_table(content),
        "",
        *(f"- {line}" for line in cascade_findings(content["figures"])),
    ]


def cascade_table(content: Mapping[str, Any]) -> str:
    """Render the running cascades as a Markdown table, one column each."""
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


def cascade_findings(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a sentence per cascade: whether it agrees with PyTorch, and what stopping saves."""
    return [_sentence(name, cascade) for name, cascade in figures.items()]


def _sentence(name: str, figures: Mapping[str, Any]) -> str:
    times = figures["times"]
    edge, cloud = (times[call]["p50_ms"] for call in ("edge: answer", "deferred: text of M_L"))
    return (
        f"{name}: {figures['decisions that differ']} of {figures['prompts']} decisions and "
        f"{figures['texts of M_S that differ']} of as many texts of M_S differ from those in "
        f"PyTorch, and {figures['texts of M_L that differ']} of {figures['deferred']} texts of "
        "M_L. Stopping a generation once its deferral is certain saves "
        f"{figures['tokens saved']:.1%} of M_S's tokens and changes "
        f"{figures['decisions changed by it']} decisions. An answer takes {edge:.1f} ms on the "
        f"device, and {cloud:.1f} ms from M_L (medians)."
    )


def check(folder: Path) -> int:
    """Recompute every printed figure, the demo's table included; return their number.

    Raises:
        CheckError: A file is missing, or a figure differs.
    """
    compared = check_comparison(folder)
    if not (folder / report.RESULTS).is_file():
        return compared
    content = report.read_results(folder)
    try:
        samples = read_samples(folder / SAMPLES_FILE)
        chosen = report.read_results(folder, RESULTS_FILE)["chosen"]
        fresh = _table_figures(samples, content["target_deferral"])
        tuned = variants(samples, content["target_deferral"])[1]
    except (GatekeeperError, KeyError) as error:
        raise CheckError(f"{folder}: {error}") from None
    if tuned != content["tuned"]:
        raise CheckError(f"{folder}: validation chooses {tuned}, the file says {content['tuned']}")
    compared += report.check_content(folder, content, fresh)
    return compared + _check_cascades(folder, samples, content, chosen)


def _check_cascades(
    folder: Path, samples: Samples, content: Mapping[str, Any], chosen: Mapping[str, str]
) -> int:
    if "cascades" not in content:  # older results were measured in PyTorch alone
        return 0
    deferral = content["target_deferral"]
    transcripts = read_transcripts(folder / transcript_file.FILE)
    models = choose_small_models(samples, chosen, deferral)
    printed = content["cascades"]["figures"]
    names = [model.name for model in models]
    if not names == list(transcripts) == list(printed):
        raise CheckError(
            f"{folder}: validation chooses {names}, {transcript_file.FILE} has {list(transcripts)}"
        )
    fresh = _cascade_figures(samples, transcripts, models, deferral)
    compared = report.compare(fresh, printed, where=f"{folder}: cascades")
    page = folder / report.REPORT
    if "\n".join(cascade_page(content["cascades"])) not in page.read_text(encoding="utf-8"):
        raise CheckError(f"{page} does not show the running cascades: run it again")
    return compared
