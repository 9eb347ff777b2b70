"""Measures how long a single picture waits beside the largest calls that a server allows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from time import sleep
from typing import Any, Final

import numpy as np
from tqdm.auto import tqdm

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure
from benchmarks.processes import NOT_COUNTED, Server, resident_bytes
from benchmarks.serving.load import Plan, run_load, serialise, to_base64
from benchmarks.untrained import random_picture, small_cnn_bundle
from cloud_stub.protocol.bounds import RowBounds
from cloud_stub.settings import ServeSettings
from edge_runtime import contract
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

_SIDE: Final = 224
_TINY_SIDE: Final = 8
_MODEL: Final = "large"
_PERCENT: Final = 99
_WARM_UP_S: Final = 1.5
"""The process that sends the large calls begins meanwhile."""
_REST_S: Final = 3.0
_MIB: Final = 1 << 20


def measure_fairness(
    folder: Path, seed: int, rounds: int, *, turn_s: float = 6.0, side: int = _SIDE
) -> list[Figure]:
    """Compare p99 of calls of one picture beside each kind of large call and alone.

    Args:
        folder: Folder for the bundle.
        seed: Seed of weights and pictures.
        rounds: Number of turns with each kind of large call.
        turn_s: Length of a turn, in seconds.
        side: Height and width of the model's pictures.
    """
    bundle = small_cnn_bundle(folder, seed, side)
    with Server(["cloud_stub", "--bundle", str(bundle), "--port", "0"]) as server:
        one = to_base64(_arrays(random_picture(side, seed)[None]))
        plan = partial(Plan, address=server.address, connections=1, first=one)
        alone = partial(_p99_ms, plan(request=one, seconds=turn_s))
        alone()
        before = resident_bytes(server.pid)
        figures = []
        for name, request in _large_calls(side, seed):
            beside, bare, answers = [], [], 0
            for _ in tqdm(range(rounds), desc=name, leave=False, disable=None):
                bare.append(alone())
                large = plan(request=to_base64(request), seconds=turn_s + 2, deadline_s=turn_s)
                with ThreadPoolExecutor() as pool:
                    crowd = pool.submit(run_load, large)
                    beside.append(_p99_ms(plan(request=one, seconds=turn_s)))
                answers += crowd.result().answered
            figures.append(_ratio(name, len(request), beside, bare, answers))
        sleep(_REST_S)  # memory goes back a moment after the last large call
        return [*figures, _kept(before, resident_bytes(server.pid))]


def _large_calls(side: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield the largest requests that the server's own defaults allow, with their names."""
    bounds = RowBounds()
    room = (ServeSettings.max_message_mib - 1) * _MIB
    rows = room // (side * side * 3)
    yield f"{rows} pictures of {side} x {side}", _arrays(np.zeros((rows, side, side, 3), np.uint8))
    tiny = np.zeros((bounds.max_rows, _TINY_SIDE, _TINY_SIDE, 3), np.uint8)
    yield f"{bounds.max_rows} pictures of {_TINY_SIDE} x {_TINY_SIDE}", _arrays(tiny)
    most = int(bounds.max_pixels**0.5)
    png = _png(np.zeros((most, most), np.uint8))
    yield f"a PNG of {most} x {most}, {len(png) >> 10} KiB", _files([png])
    noise = _png(random_picture(1000, seed))
    count = room // len(noise)
    yield f"{count} PNG of 1000 x 1000", _files([noise] * count)


def _arrays(pictures: Any) -> bytes:
    return serialise(_MODEL, contract.IMAGE, pictures)


def _files(pictures: list[bytes]) -> bytes:
    request = pb.ModelInferRequest(model_name=_MODEL)
    request.inputs.add(name=contract.IMAGE, datatype=tensors.BYTES, shape=[len(pictures)])
    return tensors.append_raw(request, [tensors.encode_bytes(pictures)])


def _png(picture: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def _p99_ms(plan: Plan) -> float:
    outcome = run_load(plan)
    if set(outcome.counts) != {"OK"}:
        raise BenchmarkError(f"expected answers from {plan.address}, got {dict(outcome.counts)}")
    times = outcome.durations_s(since_s=min(_WARM_UP_S, plan.seconds / 2))
    return float(np.percentile(times, _PERCENT)) * 1e3


def _ratio(name: str, size: int, beside: list[float], alone: list[float], answers: int) -> Figure:
    return Figure.of(
        f"p99 of one picture, beside {name} / alone",
        [a / b for a, b in zip(beside, alone, strict=True)],
        4.0,
        "x",
        f"{median(beside):.1f} and {median(alone):.1f} ms; the other caller's calls of "
        f"{size / _MIB:.1f} MiB, {answers} answered; median of {len(beside)} rounds",
    )


def _kept(before: int | None, after: int | None) -> Figure:
    name = "memory kept after the large calls"
    if before is None or after is None:
        return Figure(name, None, 50.0, "MB", NOT_COUNTED)
    detail = f"{before / 1e6:.0f} MB before, {after / 1e6:.0f} MB {_REST_S:g} s after the last one"
    return Figure.of(name, [(after - before) / 1e6], 50.0, "MB", detail)
