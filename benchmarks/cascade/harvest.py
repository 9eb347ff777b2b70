"""Runs `harvest`: fit, run and record, harvest, tune, run again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cascade import report
from benchmarks.cascade.trial import DEADLINE_S, Trial, export_bundle
from benchmarks.commands.cascade import HarvestBenchmarkSettings
from benchmarks.errors import BenchmarkError
from benchmarks.processes import running_server
from benchmarks.steps import Stages, empty_folder
from edge_runtime import Cascade, Recorder, Source, environment
from edge_runtime.reading import read_json
from train import data
from train.classifier.checkpoints import accuracy, open_for
from train.classifier.harvest import COUNTS
from train.classifier.settings import FitSettings, HarvestSettings, TuneSettings
from train.models import open_checkpoint

UNTUNED, CONTROL, RANDOM, TUNED = "untuned", "control", "random", "tuned"
_NO_BOUND = 1 << 50


def run_round(settings: HarvestBenchmarkSettings) -> None:
    """Fit, record, harvest, tune and report."""
    start = time.perf_counter()
    splits = data.load(settings.data)
    open_for(settings.large, splits.train, settings.data)
    stream = data.load_train(settings.stream).inputs
    empty_folder(settings.out, overwrite=settings.overwrite)
    bundles: dict[str, dict[int, Path]] = {UNTUNED: {}, CONTROL: {}, RANDOM: {}, TUNED: {}}
    counts: dict[str, Any] = {}
    server = ["cloud_stub", "--checkpoint", str(settings.large), "--port", "0"]
    with Stages(3 * len(settings.seeds) + 2) as stages:
        with running_server(server) as address:
            for seed in settings.seeds:
                folder = settings.out / f"seed-{seed}"
                with stages.stage(f"seed {seed}: train M_S"):
                    bundles[UNTUNED][seed] = _fit(settings, folder, seed)
                with stages.stage(f"seed {seed}: run and record the stream, harvest"):
                    harvests = _harvest(folder, bundles[UNTUNED][seed], stream, address, seed)
                with stages.stage(f"seed {seed}: tune {CONTROL}, {RANDOM} and {TUNED}"):
                    for variant, bundle in _tune(settings, folder, harvests, seed).items():
                        bundles[variant][seed] = bundle
                counts[str(seed)] = _counts(folder)
            with stages.stage("send the test set through the cascades"):
                trial = Trial(splits.test, address, bundles[UNTUNED][settings.seeds[0]])
                samples, sent_bytes = trial.measure_all(bundles)
        with stages.stage("compute figures and draw pictures"):
            first = settings.out / f"seed-{settings.seeds[0]}" / "small"
            content = {
                **environment.describe("benchmarks"),
                "data": settings.data,
                "stream": settings.stream,
                "small": settings.small,
                "large": str(settings.large),
                "objective": settings.objective,
                "epochs": settings.epochs,
                "target_deferral": settings.target_deferral,
                "seeds": list(settings.seeds),
                "training_accuracy": accuracy(open_checkpoint(first), splits.train),
                "test_size": len(splits.test),
                "recorded": counts,
                "wall_time_s": round(time.perf_counter() - start, 1),
            }
            content = report.write(settings.out, content, samples, sent_bytes)
    print(report.summary(settings.out, content))


def _fit(settings: HarvestBenchmarkSettings, folder: Path, seed: int) -> Path:
    """Fit M_S; return its bundle."""
    small = folder / "small"
    FitSettings(model=settings.small, data=settings.data, out=small, seed=seed).run()
    return _export(settings, folder, small, UNTUNED)


def _export(
    settings: HarvestBenchmarkSettings, folder: Path, checkpoint: Path, variant: str
) -> Path:
    return export_bundle(
        checkpoint,
        folder / f"bundle-{variant}",
        data=settings.data,
        target_deferral=settings.target_deferral,
    )


def _harvest(
    folder: Path, bundle: Path, stream: Sequence[Any], address: str, seed: int
) -> dict[str, Path]:
    """Return the harvests of what M_S defers, and of as many pictures picked at random."""
    records = {TUNED: folder / "recorded", RANDOM: folder / "recorded-random"}
    deferred = _record(records[TUNED], bundle, stream, address, threshold=None)
    picked = np.random.default_rng(seed).permutation(len(stream))[:deferred]
    chosen = [stream[int(row)] for row in picked]
    # Above every confidence, so that all of them are sent to M_L.
    _record(records[RANDOM], bundle, chosen, address, threshold=float("inf"))
    harvests = {TUNED: folder / "harvest", RANDOM: folder / "harvest-random"}
    for variant, out in harvests.items():
        HarvestSettings(records=(records[variant],), labels_from=str(bundle), out=out).run()
    return harvests


def _record(
    folder: Path, bundle: Path, stream: Sequence[Any], address: str, *, threshold: float | None
) -> int:
    """Run the pictures as a device would, recording; return the number of recorded ones."""
    recorder = Recorder(folder, max_bytes=_NO_BOUND)
    with Cascade.open(
        bundle, cloud=address, threshold=threshold, deadline_s=DEADLINE_S, record=recorder
    ) as cascade:
        answers = [cascade(stream[row]) for row in range(len(stream))]
    failed = [answer for answer in answers if answer.source is Source.EDGE_FALLBACK]
    if failed or recorder.dropped:
        reason = failed[0].error if failed else f"{recorder.dropped} were dropped"
        raise BenchmarkError(f"expected every deferred picture on record: {reason}")
    return recorder.recorded


def _tune(
    settings: HarvestBenchmarkSettings, folder: Path, harvests: dict[str, Path], seed: int
) -> dict[str, Path]:
    """Return the bundles of the control and of M_S tuned with each harvest."""
    share = _counts(folder)["kept"] / len(data.load(settings.data).train)
    plans: dict[str, tuple[Path | None, int]] = {
        CONTROL: (None, round(settings.epochs * (1 + share))),
        RANDOM: (harvests[RANDOM], settings.epochs),
        TUNED: (harvests[TUNED], settings.epochs),
    }
    bundles = {}
    for variant, (extra, epochs) in plans.items():
        TuneSettings(
            checkpoint=folder / "small",
            data=settings.data,
            extra=None if extra is None else str(extra),
            objective=settings.objective,
            # Like with like: the same data for all, and no run that stops before the others.
            stage2_data="same",
            guard=False,
            epochs=epochs,
            seed=seed,
            out=folder / variant,
        ).run()
        bundles[variant] = _export(settings, folder, folder / variant, variant)
    return bundles


def _counts(folder: Path) -> dict[str, int]:
    counts: dict[str, int] = read_json(folder / "harvest" / COUNTS)["counts"]
    return counts
