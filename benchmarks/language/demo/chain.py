"""Runs `demo --task`: trains and tunes the models, runs the cascades, and reports."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.commands.cascade import DemoSettings
from benchmarks.language.demo import report
from benchmarks.language.demo.cascades import choose_small_models, run_cascades
from benchmarks.language.demo.models import (
    LARGE,
    MODELS,
    SMALL,
    answer_splits,
    checkpoint,
    interview,
    train_new,
    tune_models,
)
from benchmarks.steps import Stages, empty_folder
from edge_runtime import environment
from edge_runtime.reading import read_json
from train.comparison.samples import Samples
from train.data.tasks import Task, load_task
from train.language.results import Meta, gather, write_results
from train.language.rivals import UNTUNED, Query, Responses, all_rivals
from train.models import open_language_model
from train.models.checkpoint import FILE as TRAINING_FILE


def run_language_chain(settings: DemoSettings) -> None:
    """Train, tune, compare and run cascades of language models, and write the result folder."""
    start = time.perf_counter()
    assert settings.task is not None  # noqa: S101 - narrows the type: the demo of a task
    task = load_task(settings.task, data=settings.data, limit=settings.limit)
    for folder in filter(None, (settings.small, settings.large)):
        open_language_model(folder)  # a mistake in a name must show before minutes of training
    empty_folder(settings.out, overwrite=settings.overwrite)
    with Stages(3 * len(settings.seeds) + 4) as stages:
        large, samples, left_out = _train(settings, task, stages)
        with stages.stage("compare all rivals"):
            compared = _compare(settings, task, samples, left_out, time.perf_counter() - start)
        models = choose_small_models(samples, compared["chosen"], settings.target_deferral)
        folders = {seed: _folder(settings, seed) for seed in settings.seeds}
        runs = run_cascades(settings, task, models, large, folders, stages)
        with stages.stage("compute figures and draw pictures"):
            cascades = report.describe_cascades(samples, runs, models, settings.target_deferral)
            content = {
                **environment.describe("benchmarks"),
                **report.describe(settings, task, samples),
                "cascades": cascades,
                "wall_time_s": round(time.perf_counter() - start, 1),
            }
            report.write(settings.out, content, samples, runs.transcripts)
    print(report.summary(settings.out, content, compared["findings"]))


def _train(
    settings: DemoSettings, task: Task, stages: Stages
) -> tuple[Path, Samples, dict[str, str]]:
    """Train all models; return M_L, the samples, and the rivals that failed with the reason."""
    with stages.stage("train M_L, and its answers"):
        large = (
            train_new(settings, task, LARGE, settings.out / "large", settings.seeds[0])
            if settings.large is None
            else Path(settings.large)
        )
        answers = answer_splits(large, task, settings.out, Query("large"))
        right = {split: one.right for split, one in answers.items()}
    rivals = all_rivals(MODELS)
    responses: dict[Query, list[Responses]] = {rival.query: [] for rival in rivals}
    for seed in settings.seeds:
        _run_seed(settings, task, seed, responses, right, stages)
    from_scratch = settings.small is None
    return large, *gather(rivals, responses, settings.seeds, from_scratch=from_scratch)


def _run_seed(
    settings: DemoSettings,
    task: Task,
    seed: int,
    responses: Mapping[Query, list[Responses]],
    large: Mapping[str, Any],
    stages: Stages,
) -> None:
    """Train one seed's models, and append their answers to `responses`."""
    folder = _folder(settings, seed)
    with stages.stage(f"seed {seed}: train M_S, then tune it"):
        if settings.small is None:
            train_new(settings, task, SMALL, folder / "small", seed)
        small = checkpoint(settings, UNTUNED, folder)
        tune_models(settings, task, small, folder, seed)
    with stages.stage(f"seed {seed}: answers of every model"):
        for query, runs in responses.items():
            model = checkpoint(settings, query.model, folder)
            runs.append(interview(model, task, query, large, folder))


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
        settings=_describe_settings(settings, task),
        left_out=left_out,
    )
    return write_results(settings.out, samples, meta, module="benchmarks")


def _folder(settings: DemoSettings, seed: int) -> Path:
    is_first = seed == settings.seeds[0]
    return settings.out if is_first else settings.out / f"seed-{seed}"


def _describe_settings(settings: DemoSettings, task: Task) -> dict[str, Any]:
    return {
        "train examples": len(task.train),
        "steps of control and Gatekeeper": settings.steps,
        "M_S": settings.small or f"Gemma made from scratch, {SMALL.shape}, {SMALL.epochs} epochs",
        "M_L": settings.large or f"Gemma made from scratch, {LARGE.shape}, {LARGE.epochs} epochs",
        **_early_stops(settings),
    }


def _early_stops(settings: DemoSettings) -> dict[str, str]:
    """Return the trainings that the guard stopped, with its reason."""
    stops = {}
    for seed in settings.seeds:
        for model in MODELS[1:]:
            file = _folder(settings, seed) / model / TRAINING_FILE
            reason = read_json(file)["stopped"]
            if reason:
                stops[f"{model}, seed {seed}"] = reason
    return stops
