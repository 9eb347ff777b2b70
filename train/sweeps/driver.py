"""Runs a sweep: the trainings that are not done yet, in several processes, then the comparison."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from edge_runtime.files import one_line, repair, write_atomically
from edge_runtime.reading import read_json
from train.classifier.checkpoints import LargeAnswers, open_for
from train.data import Splits
from train.errors import OutputError
from train.sweeps import jobs
from train.sweeps.jobs import score_average
from train.sweeps.methods import AVERAGE, chains, trainings
from train.sweeps.results import write_results
from train.sweeps.settings import SweepSettings

SWEEP_FILE = "sweep.json"
_FREE = ("jobs", "out", "device")  # may differ when a sweep continues


def run_sweep(settings: SweepSettings) -> None:
    """Train what is not trained yet, and write the table, the figures and the samples.

    Raises:
        OutputError: The folder belongs to another sweep, or the data have changed since.
        DataError: The data are unusable, or M_L has other labels.
    """
    start = time.perf_counter()
    splits = jobs.load_splits(settings.data, settings.limit)
    _claim(settings, splits)
    _collect_large(settings, splits)
    rows = trainings(settings.methods, settings.alphas)
    with _workers(settings.jobs) as submit:
        _finish("fit", [submit(jobs.fit_seed, settings, seed) for seed in settings.seeds])
        # Seed by seed, so that an interrupted sweep has complete seeds.
        pairs = [(seed, row) for seed in settings.seeds for row in chains(rows)]
        _finish("tune", [submit(jobs.train_chain, settings, *pair) for pair in pairs])
        if any(row.name == AVERAGE for row in rows):
            _finish("average", [submit(score_average, settings, seed) for seed in settings.seeds])
    write_results(settings, splits, round(time.perf_counter() - start, 1))


def _claim(settings: SweepSettings, splits: Splits) -> None:
    """Claim an empty folder, or check that it belongs to this sweep."""
    mine: dict[str, Any] = {"settings": _record(settings), "data_sha256": splits.fingerprint()}
    path = settings.out / SWEEP_FILE
    repair(path)
    if not path.is_file():
        if settings.out.exists() and any(settings.out.iterdir()):
            raise OutputError(
                f"expected an empty folder or a sweep at {settings.out}, got other files: choose "
                "another --out"
            )
        settings.out.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(mine, indent=2) + "\n")
        return
    theirs = _read_claim(path)
    if theirs["data_sha256"] != mine["data_sha256"]:
        raise OutputError(
            f"expected the data with which {settings.out} was started, {settings.data} has changed "
            "since: choose another --out"
        )
    other = [k for k, v in mine["settings"].items() if theirs["settings"].get(k) != v]
    if other:
        raise OutputError(
            f"expected the settings with which {settings.out} was started, got others for "
            f"{', '.join(other)}: choose another --out"
        )


def _read_claim(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = read_json(path)
        return {"data_sha256": content["data_sha256"], "settings": dict(content["settings"])}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OutputError(
            f"expected the record of a sweep at {path}, it is damaged ({one_line(error)}): choose "
            "another --out"
        ) from None


def _record(settings: SweepSettings) -> dict[str, Any]:
    """Return the settings that must not change, as JSON reads them back."""
    values = dataclasses.asdict(settings)
    fixed = {k: str(v) if isinstance(v, Path) else v for k, v in values.items() if k not in _FREE}
    record: dict[str, Any] = json.loads(json.dumps(fixed))
    return record


def _collect_large(settings: SweepSettings, splits: Splits) -> None:
    path = settings.out / jobs.LARGE_FILE
    if path.is_file():
        return
    large = open_for(settings.large, splits.train, settings.data, device=settings.device)
    parts = [splits.validation, splits.test]
    if any(word.startswith("cascade_aware") for word in settings.methods):
        parts.append(splits.train)
    print("collecting the answers of M_L", flush=True)
    jobs.save_large(path, LargeAnswers.of(large, *parts))


@contextlib.contextmanager
def _workers(count: int) -> Iterator[Callable[..., Any]]:
    """Yield `submit`: it defers a job to `_finish` for one process, starts it for several."""
    if count == 1:
        yield partial
        return
    pool = ProcessPoolExecutor(
        count,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(_threads_each(count),),
    )
    try:
        yield pool.submit
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=True)


def _threads_each(count: int) -> int:
    """Return the number of threads for each of several processes, which share the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // count)


def _finish(name: str, work: Sequence[Any]) -> None:
    """Wait for all of the work, or do it here; the first failure ends it."""
    waiting = as_completed(work) if work and isinstance(work[0], Future) else work
    with tqdm(total=len(work), desc=name, unit="model", disable=None) as bar:
        for item in waiting:
            _ = item.result() if isinstance(item, Future) else item()
            bar.update()
