"""Drives `demo --task`: fits, tunes, asks every model, runs the cascades, and reports."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cascade import pictures
from benchmarks.cascade import report as results
from benchmarks.cascade.report import table
from benchmarks.commands.cascade import DemoSettings
from benchmarks.language.demo import report, running
from benchmarks.language.demo.cascades import FILE as ASKED_FILE
from benchmarks.language.demo.cascades import save_asked
from benchmarks.language.demo.models import LARGE, MODELS, SMALL, checkpoint, fitted, tuned
from benchmarks.language.demo.serving import Ran, answers, run_cascades
from benchmarks.language.demo.serving import heard as heard_of
from benchmarks.steps import empty_folder, step
from edge_runtime import environment
from train.comparison.samples import Samples
from train.data.tasks import Task, load_task
from train.language.gathering import gather
from train.language.results import Meta, write_results
from train.language.rivals import Asking, Heard, all_rivals
from train.models import open_language_model
from train.models.checkpoint import FILE as TRAINING_FILE


def run_language_chain(settings: DemoSettings) -> None:
    """Fit, tune, answer and report; see `DemoSettings`."""
    start = time.perf_counter()
    assert settings.task is not None  # noqa: S101 - narrows the type: the demo of a task
    task = load_task(settings.task, data=settings.task_data, limit=settings.limit)
    for named in filter(None, (settings.small, settings.large)):
        open_language_model(named)  # a slip in the second name must not cost the first's minutes
    empty_folder(settings.out, overwrite=settings.overwrite)
    large, samples, left_out = _taught(settings, task)
    with step("figures of all rivals"):
        compared = _compare(settings, task, samples, left_out, time.perf_counter() - start)
    which = running.pairs(samples, compared["chosen"], settings.target_deferral)
    folders = {seed: _folder(settings, seed) for seed in settings.seeds}
    ran = run_cascades(settings, task, which, large, folders)
    with step("figures and pictures"):
        cascades = running.described(samples, ran, which, settings.target_deferral)
        content = {
            **environment.describe("benchmarks"),
            **report.described(settings, task, samples),
            "cascades": cascades,
            "wall_time_s": round(time.perf_counter() - start, 1),
        }
        _report(settings, samples, content, ran)
    print(f"\n{table(content)}\n\n{running.table(cascades)}\n")
    found = [*content["findings"], *running.findings(cascades["figures"]), *compared["findings"]]
    print("\n".join(found))
    print(f"\n{settings.out}: report.md, lm.md, results.json ({content['wall_time_s']} s)")


def _taught(settings: DemoSettings, task: Task) -> tuple[Path, Samples, dict[str, str]]:
    """Return M_L, and what all models say; with the rivals that could not be fitted, and why."""
    with step("large model: fit and ask"):
        large = fitted(
            settings, task, settings.large, LARGE, settings.out / "large", settings.seeds[0]
        )
        said = answers(large, task, settings.out, Asking("large"))
        right = {split: found.right for split, found in said.items()}
    rivals = all_rivals(MODELS)
    heard: dict[Asking, list[Heard]] = {rival.asking: [] for rival in rivals}
    for seed in settings.seeds:
        _run_seed(settings, task, seed, heard, right)
    from_scratch = settings.small is None
    return large, *gather(rivals, heard, settings.seeds, from_scratch=from_scratch)


def _run_seed(
    settings: DemoSettings,
    task: Task,
    seed: int,
    heard: Mapping[Asking, list[Heard]],
    large: Mapping[str, Any],
) -> None:
    """Train one seed's models, and append what each says to `heard`."""
    folder = _folder(settings, seed)
    with step(f"seed {seed}: small model: fit, control and tune"):
        small = fitted(settings, task, settings.small, SMALL, folder / "small", seed)
        tuned(settings, task, small, folder, seed)
    with step(f"seed {seed}: ask every model"):
        for asking, runs in heard.items():
            model = checkpoint(settings, asking.model, folder)
            runs.append(heard_of(model, task, asking, large, folder))


def _compare(
    settings: DemoSettings,
    task: Task,
    samples: Samples,
    left_out: Mapping[str, str],
    wall_time_s: float,
) -> dict[str, Any]:
    """Write and return the comparison of all rivals."""
    meta = Meta(
        task=task.name,
        deferral=settings.target_deferral,
        wall_time_s=round(wall_time_s, 1),
        settings=_described(settings, task),
        left_out=left_out,
    )
    return write_results(settings.out, samples, meta, module="benchmarks")


def _report(settings: DemoSettings, samples: Samples, content: dict[str, Any], ran: Ran) -> None:
    """Write the demo's own page, pictures and figures."""
    save_asked(settings.out / ASKED_FILE, ran.asked)
    rows = report.rows(samples, settings.target_deferral)
    drawn = pictures.draw(rows, settings.out, confidence="1 + mean negative entropy / log V")
    calls = {name: running.times_ms(asked) for name, asked in ran.asked.items()}
    drawn.append(pictures.draw_times(calls, settings.out))
    further = running.page(content["cascades"])
    results.write_report(settings.out, content, drawn, further=further)
    results.write_json(settings.out / results.RESULTS, content)


def _folder(settings: DemoSettings, seed: int) -> Path:
    is_first = seed == settings.seeds[0]
    return settings.out if is_first else settings.out / f"seed-{seed}"


def _described(settings: DemoSettings, task: Task) -> dict[str, Any]:
    return {
        "train examples": len(task.train),
        "steps of control and Gatekeeper": settings.steps,
        "M_S": settings.small or f"Gemma made from scratch, {SMALL.shape}, {SMALL.epochs} epochs",
        "M_L": settings.large or f"Gemma made from scratch, {LARGE.shape}, {LARGE.epochs} epochs",
        **_ended(settings),
    }


def _ended(settings: DemoSettings) -> dict[str, str]:
    """Return which trainings the guard ended, and why."""
    found = {}
    for seed in settings.seeds:
        for model in MODELS[1:]:
            file = _folder(settings, seed) / model / TRAINING_FILE
            reason = json.loads(file.read_text(encoding="utf-8"))["stopped"]
            if reason:
                found[f"{model}, seed {seed}"] = reason
    return found
