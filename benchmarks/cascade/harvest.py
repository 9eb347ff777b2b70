"""The command `python -m benchmarks harvest`: what M_S gains from what it deferred."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cascade import pictures, report
from benchmarks.cascade.report import findings, table
from benchmarks.cascade.samples import Samples, write_samples
from benchmarks.cascade.trial import Trial
from benchmarks.commands.cascade import HarvestBenchmarkSettings
from benchmarks.errors import BenchmarkError
from benchmarks.processes import running_server
from benchmarks.steps import empty_folder, step
from edge_runtime import Cascade, Recorder, Source, environment
from export.commands.build import BuildSettings
from train import data
from train.classifier.fit import FitSettings
from train.classifier.harvest import COUNTS, HarvestSettings
from train.classifier.loop import accuracy
from train.classifier.opening import open_for
from train.classifier.tune import TuneSettings
from train.data import Splits
from train.models import open_checkpoint

UNTUNED, CONTROL, RANDOM, TUNED = "untuned", "control", "random", "tuned"
VARIANTS = (UNTUNED, CONTROL, RANDOM, TUNED)
_DEADLINE_S = 30.0
_NO_BOUND = 1 << 50

# MERGEDOC benchmarks/harvest_round.py: 'Drives the round of `harvest`: fit, run and record, harvest, tune, run again.'


def run_round(settings: HarvestBenchmarkSettings) -> None:
    """Fit, record, harvest, tune and report; see `HarvestBenchmarkSettings`."""
    start = time.perf_counter()
    splits = data.load(settings.dataset)
    open_for(settings.large, splits.train, settings.dataset)
    stream = data.load_train(settings.stream).inputs
    empty_folder(settings.out, overwrite=settings.overwrite)
    arguments = ["cloud_stub", "--checkpoint", str(settings.large), "--port", "0"]
    counts: dict[str, Any] = {}
    with running_server(arguments) as address:
        bundles = {}
        for seed in settings.seeds:
            bundles[seed] = _bundles(settings, seed, stream, address)
            counts[str(seed)] = _counts(settings.out / f"seed-{seed}")
        with step("the test set over gRPC"):
            trial = Trial(splits.test, address, bundles[settings.seeds[0]][UNTUNED])
            measured = {
                v: [trial.measure(bundles[s][v], s) for s in settings.seeds] for v in VARIANTS
            }
    variants = {v: Samples.joined([rows for rows, _ in measured[v]]) for v in VARIANTS}
    content = _content(settings, variants, splits)
    content["recorded"] = counts
    for variant in VARIANTS:
        sent = [sent for _, sent in measured[variant]]
        content["variants"][variant]["bytes_sent"] = sum(sent) / len(sent)
    content["findings"] = findings(content)
    content["wall_time_s"] = round(time.perf_counter() - start, 1)
    write_samples(settings.out / report.SAMPLES, variants)
    report.write_report(settings.out, content, pictures.draw(variants, settings.out))
    report.write_json(settings.out / report.RESULTS, content)
    print(f"\n{table(content)}\n")
    print("\n".join(content["findings"]))
    print(f"\n{settings.out}: report.md, results.json, samples.csv.gz ({content['wall_time_s']} s)")


def _bundles(
    settings: HarvestBenchmarkSettings, seed: int, stream: Sequence[Any], address: str
) -> dict[str, Path]:
    folder = settings.out / f"seed-{seed}"
    small = folder / "small"
    with step(f"seed {seed}: fit"):
        FitSettings(model=settings.small, data=settings.dataset, out=small, seed=seed).run()
        bundles = {UNTUNED: _export(settings, small, folder / f"bundle-{UNTUNED}")}
    with step(f"seed {seed}: run, record, harvest"):
        harvests = _harvests(folder, bundles[UNTUNED], stream, address, seed)
    size = len(data.load(settings.dataset).train)
    share = _counts(folder)["kept"] / size
    plans: dict[str, tuple[Path | None, int]] = {
        CONTROL: (None, round(settings.epochs * (1 + share))),
        RANDOM: (harvests[RANDOM], settings.epochs),
        TUNED: (harvests[TUNED], settings.epochs),
    }
    with step(f"seed {seed}: control, random, tuned"):
        for variant, (extra, epochs) in plans.items():
            TuneSettings(
                checkpoint=small,
                data=settings.dataset,
                extra=None if extra is None else str(extra),
                objective=settings.objective,
                # Like with like: the same data for all, and no run that ends before the others.
                stage2_data="same",
                guard=False,
                epochs=epochs,
                seed=seed,
                out=folder / variant,
            ).run()
            bundles[variant] = _export(settings, folder / variant, folder / f"bundle-{variant}")
    return bundles


def _harvests(
    folder: Path, bundle: Path, stream: Sequence[Any], address: str, seed: int
) -> dict[str, Path]:
    """Return the harvests of what M_S defers, and of as many pictures picked at random."""
    deferred = _record(folder / "recorded", bundle, stream, address, threshold=None)
    picked = np.random.default_rng(seed).permutation(len(stream))[:deferred]
    chosen = [stream[int(row)] for row in picked]
    # Above every confidence: all of them are asked about.
    _record(folder / "recorded-random", bundle, chosen, address, threshold=float("inf"))
    found = {TUNED: folder / "harvest", RANDOM: folder / "harvest-random"}
    for out, records in (
        (found[TUNED], folder / "recorded"),
        (found[RANDOM], folder / "recorded-random"),
    ):
        HarvestSettings(records=(records,), labels_from=str(bundle), out=out).run()
    return found


def _record(
    folder: Path, bundle: Path, stream: Sequence[Any], address: str, *, threshold: float | None
) -> int:
    """Run the pictures as a device would, recording; return how many were recorded."""
    recorder = Recorder(folder, max_bytes=_NO_BOUND)
    with Cascade.open(
        bundle, cloud=address, threshold=threshold, deadline_s=_DEADLINE_S, record=recorder
    ) as cascade:
        answers = [cascade(stream[row]) for row in range(len(stream))]
    failed = [answer for answer in answers if answer.source is Source.EDGE_FALLBACK]
    if failed or recorder.dropped:
        reason = failed[0].error if failed else f"{recorder.dropped} were dropped"
        raise BenchmarkError(f"expected every deferred picture on record: {reason}")
    return recorder.recorded


def _export(settings: HarvestBenchmarkSettings, checkpoint: Path, out: Path) -> Path:
    BuildSettings(
        checkpoint=checkpoint,
        out=out,
        calibrate=settings.dataset,
        target_deferral=settings.target_deferral,
    ).run()
    return out


def _counts(folder: Path) -> dict[str, int]:
    counts: dict[str, int] = json.loads((folder / "harvest" / COUNTS).read_text("utf-8"))["counts"]
    return counts


def _content(
    settings: HarvestBenchmarkSettings, variants: dict[str, Samples], splits: Splits
) -> dict[str, Any]:
    first = settings.out / f"seed-{settings.seeds[0]}" / "small"
    return {
        **environment.describe("benchmarks"),
        "data": settings.dataset,
        "stream": settings.stream,
        "small": settings.small,
        "large": str(settings.large),
        "objective": settings.objective,
        "epochs": settings.epochs,
        "target_deferral": settings.target_deferral,
        "seeds": list(settings.seeds),
        "training_accuracy": accuracy(open_checkpoint(first), splits.train),
        "test_size": len(variants[TUNED].ids),
        **report.figures(variants),
    }
