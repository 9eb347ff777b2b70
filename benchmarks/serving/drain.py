"""Measures whether calls are lost when one of two servers is stopped in order under load.

Callers know both addresses, half of them in the other order, so that both servers have work. Every
call must get M_L's right answer, and the answers that the servers report when they stop must add up
to those that the callers got.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import numpy as np
from tqdm.auto import tqdm

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure
from benchmarks.processes import Server
from benchmarks.untrained import SIDE, random_picture
from edge_runtime import Answer, Cascade, Source
from edge_runtime.cloud.connect import Failover
from edge_runtime.edge_model import EdgeModel

_CALLERS: Final = 4
"""Threads for each order of the addresses."""
_PICTURES: Final = 16
_DEADLINE_S: Final = 10.0
_LOAD_S: Final = 1.0
"""Time that both servers work before one of them is stopped."""
_LONGEST_S: Final = 60.0
_ANSWERED: Final = re.compile(r"(\d+) answered")


@dataclass
class _Calls:
    """The calls so far.

    Attributes:
        classes: Number of different right answers.
        right: Number of right answers from M_L.
        lost: Reason or wrong answer of each other call.
    """

    classes: int = 0
    right: int = 0
    lost: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, answer: Answer, right: int) -> None:
        with self._lock:
            if answer.source is Source.CLOUD and answer.prediction == right:
                self.right += 1
            else:
                self.lost.append(answer.error or f"{answer.prediction} for {right}")


def measure_drains(
    bundle: Path, seed: int, drains: int, *, load_s: float = _LOAD_S
) -> list[Figure]:
    """Count the calls that are lost, and the answers that do not arrive.

    Args:
        bundle: Bundle that both servers serve and that callers use as M_S, to compare answers.
        seed: Seed of the pictures.
        drains: Number of times that a server is stopped, the two in turn.
        load_s: Time that both work before each stop, in seconds.
    """
    words = ["cloud_stub", "--bundle", str(bundle), "--threads", "1"]
    lost: list[int] = []
    with Server([*words, "--port", "0"]) as one, Server([*words, "--port", "0"]) as other:
        with _callers(bundle, [one.address, other.address], seed) as (calls, cascades):
            logs = [
                _drain((one, other)[i % 2], calls, cascades, lost, load_s)
                for i in tqdm(range(drains), desc="drains", leave=False, disable=None)
            ]
        logs += [one.stop(), other.stop()]
    return _figures(calls, lost, sum(map(_answered, logs)))


def _drain(
    server: Server, calls: _Calls, cascades: Sequence[Cascade], lost: list[int], load_s: float
) -> str:
    """Stop a server under load and start it again; return the end of its log."""
    before = len(calls.lost)
    sleep(load_s)
    log = server.stop()
    server.start()
    _await_both(cascades)
    lost.append(len(calls.lost) - before)
    return log


def _await_both(cascades: Sequence[Cascade]) -> None:
    """Wait until every caller reaches both servers.

    Raises:
        BenchmarkError: One does not within a minute.
    """
    until = monotonic() + _LONGEST_S
    while any(model.breaker.is_open for cascade in cascades for model in _models(cascade)):
        if monotonic() > until:
            raise BenchmarkError(f"a caller did not find a server again within {_LONGEST_S:g} s")
        sleep(0.05)


def _models(cascade: Cascade) -> Sequence[Any]:
    assert isinstance(cascade.cloud, Failover)  # noqa: S101 - narrows the type
    return cascade.cloud.models


@contextlib.contextmanager
def _callers(
    bundle: Path, addresses: list[str], seed: int
) -> Iterator[tuple[_Calls, list[Cascade]]]:
    """Call without a pause until the end of the block; yield the calls and the cascades."""
    calls, stop = _Calls(), threading.Event()
    pictures = _pictures(seed)
    with contextlib.ExitStack() as opened:
        cascades = [
            opened.enter_context(
                Cascade.open(
                    bundle,
                    cloud=order,
                    threshold=float("inf"),
                    threads=1,
                    deadline_s=_DEADLINE_S,
                )
            )
            for order in (addresses, addresses[::-1])
        ]
        small = EdgeModel.open(bundle, threads=1)
        right = [int(small(picture[None]).prediction[0]) for picture in pictures]
        calls.classes = len(set(right))

        def caller(cascade: Cascade) -> None:
            for i in range(2**62):
                if stop.is_set():
                    return
                calls.add(cascade(pictures[i % _PICTURES]), right[i % _PICTURES])

        with ThreadPoolExecutor(len(cascades) * _CALLERS) as threads:
            running = [threads.submit(caller, c) for c in cascades for _ in range(_CALLERS)]
            try:
                yield calls, cascades
            finally:
                stop.set()
            for thread in running:
                thread.result()


def _pictures(seed: int) -> list[Any]:
    """Return pictures in different tints: for an untrained model all plain noise is one class."""
    tints = np.random.default_rng(seed).uniform(size=(_PICTURES, 3))
    return [
        (random_picture(SIDE, seed + i) * tint).astype(np.uint8) for i, tint in enumerate(tints)
    ]


def _answered(log: str) -> int:
    counts = _ANSWERED.findall(log)
    if not counts:
        raise BenchmarkError(f"expected the server's count of answers, got {log!r:.200}")
    return int(counts[-1])


def _figures(calls: _Calls, lost: list[int], answered: int) -> list[Figure]:
    total = calls.right + len(calls.lost)
    reasons = "; ".join(sorted(set(calls.lost))[:3])
    return [
        Figure.of(
            f"{len(lost)} drains under load: calls lost",
            # Calls that were lost after the last drain count as well.
            [*lost, len(calls.lost) - sum(lost)],
            0,
            "",
            f"{total} calls of {2 * _CALLERS} callers with two addresses"
            + (f"; {reasons}" if reasons else f", every answer right, {calls.classes} classes"),
            statistic="sum",
        ),
        Figure(
            f"{len(lost)} drains under load: answers that did not arrive",
            answered - calls.right,
            0,
            "",
            f"servers report {answered} answered calls, callers got {calls.right}",
        ),
    ]
