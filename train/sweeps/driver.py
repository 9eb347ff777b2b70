"""Runs a sweep: what is left of it, in several processes, and then the comparison."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from train.classifier.checkpoints import LargeAnswers, open_for
from train.data import Splits
from train.errors import OutputError
from train.sweeps import jobs
from train.sweeps.jobs import score_average
from train.sweeps.methods import AVERAGE, chains, trainings
from train.sweeps.results import write_results
from train.sweeps.settings import SweepSettings
from train.training.schedule import move_to

SWEEP_FILE = "sweep.json"
_FREE = ("jobs", "out", "device")  # may differ when a sweep goes on


def run_sweep(settings: SweepSettings) -> None:
    """Do what is left of a sweep; see `SweepSettings`.

    Raises:
        OutputError: The folder is of another sweep, or the data have changed since.
        DataError: The data are unusable, or M_L has other labels.
    """
    start = time.perf_counter()
    splits = jobs.load_splits(settings.data, settings.limit)
    _claim(settings, splits)
    _ask_large(settings, splits)
    rows = trainings(settings.methods, settings.alphas)
    with _workers(settings.jobs) as submit:
        _all("fit", [submit(jobs.fit_seed, settings, seed) for seed in settings.seeds])
        # Seed by seed, so that an interrupted sweep has whole seeds to show.
        pairs = [(seed, row) for seed in settings.seeds for row in chains(rows)]
        _all("tune", [submit(jobs.train_chain, settings, *pair) for pair in pairs])
        if any(row.name == AVERAGE for row in rows):
            _all("average", [submit(score_average, settings, seed) for seed in settings.seeds])
    write_results(settings, splits, round(time.perf_counter() - start, 1))


def _claim(settings: SweepSettings, splits: Splits) -> None:
    """Take the folder, or see that it is of this very sweep."""
    mine: dict[str, Any] = {
        "settings": _plain(settings),
        "data_sha256": splits.fingerprint(),
    }
    path = settings.out / SWEEP_FILE
    if not path.is_file():
        if settings.out.exists() and any(settings.out.iterdir()):
            raise OutputError(
                f"expected an empty folder or a sweep at {settings.out}, other things are there: "
                "name another"
            )
        settings.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(mine, indent=2) + "\n", encoding="utf-8")
        return
    theirs = json.loads(path.read_text(encoding="utf-8"))
    if theirs["data_sha256"] != mine["data_sha256"]:
        raise OutputError(
            f"expected the data that {settings.out} was begun with, {settings.data} has changed "
            "since: name another --out"
        )
    other = [k for k, v in mine["settings"].items() if theirs["settings"].get(k) != v]
    if other:
        raise OutputError(
            f"expected the settings that {settings.out} was begun with, "
            f"{', '.join(other)} differ: name another --out"
        )


def _plain(settings: SweepSettings) -> dict[str, Any]:
    values = dataclasses.asdict(settings)
    kept = {k: str(v) if isinstance(v, Path) else v for k, v in values.items() if k not in _FREE}
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain


def _ask_large(settings: SweepSettings, splits: Splits) -> None:
    path = settings.out / jobs.LARGE_FILE
    if path.is_file():
        return
    large = move_to(open_for(settings.large, splits.train, settings.data), settings.device)
    asked = [splits.validation, splits.test]
    if any(word.startswith("cascade_aware") for word in settings.methods):
        asked.append(splits.train)
    print("asking M_L", flush=True)
    jobs.save_large(path, LargeAnswers.of(large, *asked))


class _workers:  # noqa: N801 - used like a function
    """Gives `submit`: in this process for one job, in a pool of processes for more."""

    def __init__(self, count: int) -> None:
        self._pool = None
        if count > 1:
            self._pool = ProcessPoolExecutor(
                count,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=jobs.set_up_worker,
                initargs=(jobs.threads_each(count),),
            )

    def __enter__(self) -> Callable[..., Any]:
        return partial if self._pool is None else self._pool.submit

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=kind is not None)


def _all(name: str, work: Iterable[Any]) -> None:
    """Wait for all of the work, or do it; the first failure ends it."""
    items = list(work)
    bar = tqdm(total=len(items), desc=name, unit="model", disable=None)
    waiting = as_completed(items) if items and isinstance(items[0], Future) else items
    for item in waiting:
        _ = item.result() if isinstance(item, Future) else item()
        bar.update()
    bar.close()
