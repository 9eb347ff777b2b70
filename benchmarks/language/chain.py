"""Drives `demo --task`: fits, tunes, asks every model, and reports."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import pictures, results
from benchmarks.demo import DemoSettings
from benchmarks.language import report
from benchmarks.language.models import LARGE, MODELS, SMALL, fitted, tuned
from benchmarks.steps import empty_folder, step
from benchmarks.wording import table
from edge_runtime import environment
from train.data.tasks import Task, load_task
from train.language.answers import Answers, answer_split, save_answers
from train.language.gathering import gather
from train.language.results import Meta, write_results
from train.language.rivals import UNTUNED, Asking, Heard, all_rivals
from train.models import open_language_model
from train.models.training import FILE as TRAINING_FILE
from train.samples import Samples
from train.scores import SPLITS


def run_language_chain(settings: DemoSettings) -> None:
    """Fit, tune, answer and report; see `DemoSettings`."""
    start = time.perf_counter()
    assert settings.task is not None  # noqa: S101 - narrows the type: the demo of a task
    task = load_task(settings.task, data=settings.task_data, limit=settings.limit)
    for named in filter(None, (settings.small, settings.large)):
        open_language_model(named)  # a slip in the second name must not cost the first's minutes
    empty_folder(settings.out, overwrite=settings.overwrite)
    with step("large model: fit and ask"):
        large = fitted(
            settings, task, settings.large, LARGE, settings.out / "large", settings.seeds[0]
        )
        right = {
            s: a.right for s, a in _answers(large, task, settings.out, Asking("large")).items()
        }
    rivals = all_rivals(MODELS)
    heard: dict[Asking, list[Heard]] = {rival.asking: [] for rival in rivals}
    for seed in settings.seeds:
        _run_seed(settings, task, seed, heard, right)
    with step("figures and pictures"):
        samples, left_out = gather(
            rivals, heard, settings.seeds, from_scratch=settings.small is None
        )
        _report(settings, task, samples, left_out, round(time.perf_counter() - start, 1))


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
            model = small if asking.model == UNTUNED else folder / asking.model
            runs.append(_heard(model, task, asking, large, folder))


def _report(
    settings: DemoSettings,
    task: Task,
    samples: Samples,
    left_out: Mapping[str, str],
    wall_time_s: float,
) -> None:
    """Write and print both tables, and draw."""
    meta = Meta(
        task=task.name,
        deferral=settings.target_deferral,
        wall_time_s=wall_time_s,
        settings=_described(settings, task),
        left_out=left_out,
    )
    compared = write_results(settings.out, samples, meta, module="benchmarks")
    content = {
        **environment.describe("benchmarks"),
        **report.described(settings, task, samples),
        "wall_time_s": wall_time_s,
    }
    rows = report.rows(samples, settings.target_deferral)
    drawn = pictures.draw(rows, settings.out, confidence="1 + mean negative entropy / log V")
    results.write_report(settings.out, content, drawn)
    results.write_json(settings.out / results.RESULTS, content)
    print(f"\n{table(content)}\n")
    print("\n".join([*content["findings"], *compared["findings"]]))
    print(f"\n{settings.out}: report.md, lm.md, results.json, lm-samples.npz ({wall_time_s} s)")


def _folder(settings: DemoSettings, seed: int) -> Path:
    is_first = seed == settings.seeds[0]
    return settings.out if is_first else settings.out / f"seed-{seed}"


def _answers(model: Path, task: Task, folder: Path, asking: Asking) -> dict[str, Answers]:
    """Return what a model says to validation and test; kept, so that they can be read again."""
    opened = open_language_model(model)
    found = {}
    name = asking.model if asking.instruction is None else f"{asking.model}-{_slug(asking)}"
    (folder / "answers").mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        found[split] = answer_split(
            opened,
            task,
            task.splits()[split],
            instruction=asking.instruction,
            watch_text=asking.watch,
        )
        save_answers(folder / "answers" / f"{name}-{split}.npz", found[split])
    return found


def _slug(asking: Asking) -> str:
    return "answer-n" if asking.watch else "reduce-confidence"


def _heard(
    model: Path, task: Task, asking: Asking, large: Mapping[str, Any], folder: Path
) -> Heard:
    answers = _answers(model, task, folder, asking)
    return Heard(answers, large, open_language_model(model).vocabulary, task.answers)


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
