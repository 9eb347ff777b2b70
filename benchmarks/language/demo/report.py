"""The result folder of `demo --task`: what is written, and whether it follows from the samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.cascade import report
from benchmarks.cascade.report import findings
from benchmarks.cascade.samples import Samples
from benchmarks.commands.cascade import DemoSettings
from benchmarks.errors import CheckError
from benchmarks.language.demo import running, table
from benchmarks.language.demo.table import KIND, TUNED, is_language, tokens_per_s, variants
from edge_runtime.errors import GatekeeperError
from train.comparison.samples import Samples as AllSamples
from train.comparison.samples import read_samples
from train.data.tasks import Task
from train.language.results import RESULTS_FILE, SAMPLES_FILE
from train.language.rivals import CONTROL, UNTUNED

__all__ = ["check", "described", "figures", "is_language", "rows"]


def figures(samples: AllSamples, deferral: float) -> dict[str, Any]:
    """Return everything of the demo's table that follows from the per-sample file."""
    rows, chosen = variants(samples, deferral)
    content = report.figures(rows)
    models = {UNTUNED: UNTUNED, CONTROL: CONTROL, TUNED: chosen}
    for name, model in models.items():
        content["variants"][name]["tokens_per_s"] = tokens_per_s(samples, model)
    return content


def rows(samples: AllSamples, deferral: float) -> dict[str, Samples]:
    """Return the rows that are drawn."""
    return variants(samples, deferral)[0]


def described(settings: DemoSettings, task: Task, samples: AllSamples) -> dict[str, Any]:
    """Return the content of `results.json`, but for hardware and time."""
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
        **figures(samples, settings.target_deferral),
    }
    content["findings"] = findings(content)
    return content


def check(folder: Path) -> int:
    """Recompute every printed figure, the demo's table among them; return how many there are.

    Raises:
        CheckError: A file is missing, or a figure differs.
    """
    compared = table.check(folder)
    if not (folder / report.RESULTS).is_file():
        return compared
    content = report.read_results(folder)
    try:
        samples = read_samples(folder / SAMPLES_FILE)
        chosen_rows = report.read_results(folder, RESULTS_FILE)["chosen"]
        fresh = figures(samples, content["target_deferral"])
        chosen = variants(samples, content["target_deferral"])[1]
    except (GatekeeperError, KeyError) as error:
        raise CheckError(f"{folder}: {error}") from None
    if chosen != content["tuned"]:
        raise CheckError(f"{folder}: validation chooses {chosen}, the file says {content['tuned']}")
    compared += report.check_content(folder, content, fresh)
    return compared + running.check(folder, samples, content, chosen_rows)
