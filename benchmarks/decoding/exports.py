"""Exports of many language models, a few at a time."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from export.commands.language import LanguageSettings


def export_all(jobs: Sequence[LanguageSettings]) -> None:
    """Run exports in as many processes as there are cores; most of one is tracing, in one thread.

    Raises:
        ExportError: One was refused.
    """
    if len(jobs) == 1:
        _export(jobs[0])
    if len(jobs) <= 1:
        return
    # A fork of a process with threads may wait for a lock that nobody holds any more.
    context = multiprocessing.get_context("spawn")
    workers = min(len(jobs), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_alone) as pool:
        for _ in pool.map(_export, jobs):
            pass


def _alone() -> None:
    import torch

    torch.set_num_threads(1)  # the others have the other cores


def _export(job: LanguageSettings) -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # a line of a folder that will be gone
        job.run()
