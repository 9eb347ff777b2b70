"""Measures whether calls are lost when one of two servers is ended in order under load.

Callers name both addresses, half of them in the other order, so that both servers have work. Every
caller must get the right answer of M_L to every call, and what the servers say that they answered
must be what callers got.
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
"""Threads in either order of the addresses."""
_PICTURES: Final = 16
_DEADLINE_S: Final = 10.0
_LOAD_S: Final = 1.0
"""How long both servers work before one of them is ended."""
_LONGEST_S: Final = 60.0
_ANSWERED: Final = re.compile(r"(\d+) answered")


@dataclass
class _Calls:
    """What callers saw: right answers of M_L, of how many classes, and why others were none."""

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


def drain_figures(bundle: Path, seed: int, drains: int, *, load_s: float = _LOAD_S) -> list[Figure]:
    """Return how many calls were lost, and how many answers did not arrive.

    Args:
        bundle: Of a model that both servers serve and callers have as M_S: answers can be compared.
        seed: Of the pictures.
        drains: How often a server is ended, one after the other in turn.
        load_s: How long both work before, in seconds.
    """
    words = ["cloud_stub", "--bundle", str(bundle), "--threads", "1"]
    lost: list[int] = []
    with Server([*words, "--port", "0"]) as one, Server([*words, "--port", "0"]) as other:
        with _callers(bundle, [one.address, other.address], seed) as (calls, cascades):
            told = [
                _drain((one, other)[i % 2], calls, cascades, lost, load_s)
                for i in tqdm(range(drains), desc="drains", leave=False, disable=None)
            ]
        told += [one.stop(), other.stop()]
    answered = sum(_answered(said) for said in told)
    return _figures(calls, lost, answered)


def _drain(
    server: Server, calls: _Calls, cascades: Sequence[Cascade], lost: list[int], load_s: float
) -> str:
    """End a server under load and start it again; return what it said at its end."""
    before = len(calls.lost)
    sleep(load_s)
    told = server.stop()
    server.start()
    _await_both(cascades)
    lost.append(len(calls.lost) - before)
    return told


def _await_both(cascades: Sequence[Cascade]) -> None:
    """Wait until no caller is kept off a server any more.

    Raises:
        BenchmarkError: One still is after a minute.
    """
    until = monotonic() + _LONGEST_S
    while any(model.breaker.is_open for cascade in cascades for model in _models(cascade)):
        if monotonic() > until:
            raise BenchmarkError(f"a server was not found again within {_LONGEST_S:g} s")
        sleep(0.05)


def _models(cascade: Cascade) -> Sequence[Any]:
    assert isinstance(cascade.cloud, Failover)  # noqa: S101 - narrows the type
    return cascade.cloud.models


@contextlib.contextmanager
def _callers(
    bundle: Path, addresses: list[str], seed: int
) -> Iterator[tuple[_Calls, list[Cascade]]]:
    """Call without a pause until the end of the block; yield what came of it, and the cascades."""
    calls, ending = _Calls(), threading.Event()
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
                if ending.is_set():
                    return
                calls.add(cascade(pictures[i % _PICTURES]), right[i % _PICTURES])

        with ThreadPoolExecutor(len(cascades) * _CALLERS) as threads:
            running = [threads.submit(caller, c) for c in cascades for _ in range(_CALLERS)]
            try:
                yield calls, cascades
            finally:
                ending.set()
            for caller_ in running:
                caller_.result()


def _pictures(seed: int) -> list[Any]:
    """Return pictures in different tints: an untrained model gives plain noise one class."""
    tints = np.random.default_rng(seed).uniform(size=(_PICTURES, 3))
    return [
        (random_picture(SIDE, seed + i) * tint).astype(np.uint8) for i, tint in enumerate(tints)
    ]


def _answered(said: str) -> int:
    found = _ANSWERED.findall(said)
    if not found:
        raise BenchmarkError(f"expected a server that says what it answered, got {said!r:.200}")
    return int(found[-1])


def _figures(calls: _Calls, lost: list[int], answered: int) -> list[Figure]:
    asked = calls.right + len(calls.lost)
    reasons = "; ".join(sorted(set(calls.lost))[:3])
    return [
        Figure.of(
            f"{len(lost)} drains under load: calls lost",
            # What was lost after the last drain was noted counts as well.
            [*lost, len(calls.lost) - sum(lost)],
            0,
            "",
            f"{asked} calls of {2 * _CALLERS} callers with two addresses"
            + (f"; {reasons}" if reasons else f", every answer right, of {calls.classes} classes"),
            statistic="sum",
        ),
        Figure(
            f"{len(lost)} drains under load: answers that did not arrive",
            answered - calls.right,
            0,
            "",
            f"the servers say {answered} answered, callers got {calls.right}",
        ),
    ]
