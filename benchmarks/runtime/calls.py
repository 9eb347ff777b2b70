"""Measures calls that the edge answers against ONNX Runtime alone."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from time import perf_counter
from typing import Any, Final

import numpy as np

from benchmarks.figures import Figure
from benchmarks.timing import Call, medians_a_round_us, time_each
from benchmarks.untrained import SIDE, random_picture, small_cnn_bundle
from edge_runtime import Cascade, contract
from edge_runtime.edge_model import EdgeModel

_LARGER_SIDE: Final = 224
"""A SmallCNN for pictures of this size takes about 2 ms."""
_THREADS: Final = 8
_CALLS_A_TURN: Final = 15  # per thread


def measure_calls(bundle: Path, seed: int, rounds: int) -> list[Figure]:
    """Time one call at a time, and eight threads that call at once.

    Args:
        bundle: Bundle of a SmallCNN.
        seed: Seed of the pictures and of the larger model's weights.
        rounds: Alternating rounds of each comparison.
    """
    with tempfile.TemporaryDirectory() as folder:
        larger = small_cnn_bundle(Path(folder), seed, _LARGER_SIDE)
        return [*_single_call(bundle, seed, rounds), _throughput(larger, seed, rounds)]


def bare_run(cascade: Cascade, picture: Any) -> Call:
    """Return a call of the cascade's session with the cascade's feeds: the graph alone."""
    assert isinstance(cascade.edge, EdgeModel)  # noqa: S101 - narrows the type
    run = cascade.edge.session.run
    feeds = {
        contract.IMAGE: picture[None],
        contract.THRESHOLD: np.array(cascade.edge.threshold, np.float32),
    }
    return lambda: run(contract.GATE_OUTPUTS, feeds)


def _single_call(bundle: Path, seed: int, rounds: int) -> list[Figure]:
    picture = random_picture(SIDE, seed)
    with Cascade.open(bundle, threshold=float("-inf"), threads=1) as cascade:
        bare = bare_run(cascade, picture)
        calls = {"bare": bare, "ours": lambda: cascade(picture)}
        times = medians_a_round_us(calls, rounds=rounds)
    pairs = list(zip(times["ours"], times["bare"], strict=True))
    ours, theirs = map(float, np.median(pairs, axis=0))
    detail = f"{ours:.1f} and {theirs:.1f} us, 1 thread"
    return [
        Figure("edge-answered call minus session.run", ours - theirs, 15.0, "us", detail),
        Figure.of("edge-answered call / session.run", [o / t for o, t in pairs], 1.2, "x", detail),
    ]


def _throughput(bundle: Path, seed: int, rounds: int) -> Figure:
    picture = random_picture(_LARGER_SIDE, seed)
    with (
        Cascade.open(bundle, threshold=float("-inf"), threads=1) as cascade,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        bare = bare_run(cascade, picture)
        rates = _paired_rates(pool, bare, lambda: cascade(picture), rounds)
        alone_ms = np.median(time_each(bare, _CALLS_A_TURN)) / 1e6
    ours, theirs = np.median(rates, axis=0)
    return Figure(
        f"throughput of {_THREADS} threads / session.run",
        float(np.median(rates[:, 0] / rates[:, 1])),
        0.95,
        "x",
        f"{ours:.0f} and {theirs:.0f} calls/s, a graph of {alone_ms:.1f} ms, {rounds} pairs",
        at_least=True,
    )


def _paired_rates(pool: ThreadPoolExecutor, bare: Call, ours: Call, rounds: int) -> Any:
    """Return calls per second, float64 [rounds, 2]: ours and bare; they take turns to go first."""
    for call in (ours, bare):
        _rate(pool, call)  # warm-up
    rates = np.empty((rounds, 2))
    for number in range(rounds):
        order = ((0, ours), (1, bare))
        for side, call in order if number % 2 else order[::-1]:
            rates[number, side] = _rate(pool, call)
    return rates


def _rate(pool: ThreadPoolExecutor, call: Call) -> float:
    """Return the calls per second of all threads, from their common start to the last one's end."""
    gate = Barrier(_THREADS + 1)

    def work() -> None:
        gate.wait()
        for _ in range(_CALLS_A_TURN):
            call()

    try:
        done = [pool.submit(work) for _ in range(_THREADS)]
        gate.wait()
    except BaseException:
        gate.abort()  # after a Ctrl-C they would wait for ever
        raise
    start = perf_counter()
    for future in done:
        future.result()
    return _THREADS * _CALLS_A_TURN / (perf_counter() - start)
