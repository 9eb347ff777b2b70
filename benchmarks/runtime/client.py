"""Measures deferred calls, and the client alone, on a server that answers at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np

from benchmarks.figures import Figure
from benchmarks.processes import running_server
from benchmarks.runtime.calls import bare_run
from benchmarks.timing import Call, paired_medians_us
from benchmarks.untrained import random_picture
from edge_runtime import Cascade, CloudModel, Source, contract
from edge_runtime.edge_model import EdgeModel
from edge_runtime.wire import messages as pb

_SIDES: Final = (32, 224, 448)
"""Pictures of 3, 151 and 602 KB."""
_DEADLINE_S: Final = 5.0
_CALLS_A_ROUND: Final = 25
_OVERHEAD_MS: Final = 0.15
_NO_TRITON: Final = "tritonclient is not installed: pip install 'tritonclient[grpc]'"


def measure_client(bundle: Path, seed: int, rounds: int) -> list[Figure]:
    """Time whole deferred calls and the client alone, with small and large pictures.

    Args:
        bundle: Bundle of a SmallCNN.
        seed: Seed of the pictures.
        rounds: Alternating rounds of each comparison.
    """
    with running_server(["benchmarks.runtime.echo_server"]) as address:
        pictures = [random_picture(side, seed) for side in _SIDES]
        return [
            *(_deferred_call(bundle, address, picture, rounds) for picture in pictures),
            *(_client(address, picture, rounds) for picture in pictures),
        ]


def _deferred_call(bundle: Path, address: str, picture: Any, rounds: int) -> Figure:
    name = f"deferred call of {_size(picture)} minus run + bare gRPC call"
    with (
        Cascade.open(
            bundle, cloud=address, threshold=float("inf"), threads=1, deadline_s=_DEADLINE_S
        ) as cascade,
        grpc.insecure_channel(address) as channel,
    ):
        run = bare_run(cascade, picture)
        call = channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
        payload = _request_bytes(cascade, picture)

        def bare() -> Any:
            run()
            return call(payload, timeout=_DEADLINE_S)

        times = _times_us({"bare": bare, "ours": lambda: cascade(picture)}, rounds)
        sources = cascade.stats.snapshot().sources
    if set(sources) != {Source.CLOUD}:
        counts = {name: latency.count for name, latency in sources.items()}
        return Figure(name, None, _OVERHEAD_MS, "ms", f"expected answers from M_L, got {counts}")
    return Figure(
        name,
        (times["ours"] - times["bare"]) / 1e3,
        _OVERHEAD_MS,
        "ms",
        f"{times['ours']:.0f} and {times['bare']:.0f} us, both send the same {len(payload)} bytes",
    )


def _request_bytes(cascade: Cascade, picture: Any) -> bytes:
    """Return the request that the cascade sends for a picture, parameters included."""
    cloud = cascade.cloud
    assert isinstance(cloud, CloudModel)  # noqa: S101 - narrows the type
    assert isinstance(cascade.edge, EdgeModel)  # noqa: S101 - narrows the type
    rows = picture[None]
    confidences = cascade.edge(rows).confidence
    return cloud._request("00000000-0", rows, confidences, cascade.edge.threshold)  # noqa: SLF001 - the very bytes; nothing else needs them


def _client(address: str, picture: Any, rounds: int) -> Figure:
    name = f"client alone, {_size(picture)} / tritonclient"
    rows = picture[None]
    with (
        _tritonclient(address, rows) as peer,
        CloudModel.open(address, labels=["0"], deadline_s=_DEADLINE_S) as cloud,
    ):
        if peer is None:
            return Figure(name, None, 1.0, "x", _NO_TRITON)
        times = _times_us({"peer": peer, "ours": lambda: cloud.infer(rows)}, rounds)
    return Figure(
        name,
        times["ours"] / times["peer"],
        1.0,
        "x",
        f"{times['ours']:.0f} and {times['peer']:.0f} us, numpy in, three outputs as numpy",
    )


@contextlib.contextmanager
def _tritonclient(address: str, rows: Any) -> Iterator[Call | None]:
    """Yield a call of the same request through tritonclient, or None if it is not installed."""
    try:
        from tritonclient import grpc as triton
    except ImportError:
        yield None
        return
    names = (contract.PREDICTION, contract.LABEL, contract.CONFIDENCE)

    def call() -> list[Any]:
        image = triton.InferInput(contract.IMAGE, list(rows.shape), "UINT8")
        image.set_data_from_numpy(rows)
        outputs = [triton.InferRequestedOutput(name) for name in names]
        answer = client.infer(
            contract.DEFAULT_MODEL, [image], outputs=outputs, client_timeout=_DEADLINE_S
        )
        return [answer.as_numpy(name) for name in names]

    with triton.InferenceServerClient(address) as client:
        yield call


def _times_us(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    return paired_medians_us(calls, rounds=rounds, calls_a_round=_CALLS_A_ROUND)


def _size(picture: Any) -> str:
    return f"{np.asarray(picture).nbytes / 1e3:.0f} KB"
