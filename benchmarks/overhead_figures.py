"""Measures the figures of `overhead`, each beside its bare peer in alternating rounds."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc
import numpy as np
import onnx

from benchmarks import results
from benchmarks.figure import Figure
from benchmarks.gate_figures import entropy_of_large_vocabulary
from benchmarks.latency import random_input
from benchmarks.loss_figures import loss_of_large_vocabulary, training_step
from benchmarks.overhead import OverheadSettings
from benchmarks.server import running_server
from benchmarks.timing import paired_medians_us
from edge_runtime import Cascade, contract
from edge_runtime.environment import describe, hardware
from edge_runtime.wire import messages as pb
from export.commands.build import BuildSettings
from export.preprocessing import fuse_preprocessing
from export.sources.checkpoint import image_graph
from train.models import build, open_checkpoint, save

_SIDE = 32
_CLASSES = 10
_IMPORT_RUNS = 9
_BARE_IMPORT = "import numpy, onnxruntime, grpc"
_OUR_IMPORT = "import edge_runtime; edge_runtime.Cascade"


def measure(settings: OverheadSettings) -> None:
    """Print every figure, and write them where asked."""
    with tempfile.TemporaryDirectory() as folder:
        bundle, bare = _graphs(Path(folder), settings.seed)
        figures = [
            _gate(bundle, bare, settings),
            _edge_call(bundle, settings),
            _deferred_call(bundle, settings),
            _import_time(),
            entropy_of_large_vocabulary(settings.seed),
            training_step(settings.seed, settings.rounds),
            loss_of_large_vocabulary(settings.seed),
        ]
    machine = hardware()
    print(f"{machine['cores']} cores of {machine['processor']}; medians, alternating rounds")
    for figure in figures:
        print(figure.line())
    if settings.out is not None:
        content = {**describe("benchmarks"), "figures": [vars(figure) for figure in figures]}
        results.write_json(settings.out, content)


def _graphs(folder: Path, seed: int) -> tuple[Path, Path]:
    """Return a bundle of a SmallCNN, and the same graph with preprocessing but without the gate."""
    names = [str(i) for i in range(_CLASSES)]
    save(build("small-cnn", labels=names, image_size=(_SIDE, _SIDE), seed=seed), folder / "small")
    checkpoint = open_checkpoint(folder / "small")
    BuildSettings(checkpoint=folder / "small", out=folder / "bundle", threshold=0.5).run()
    model = image_graph(checkpoint, (_SIDE, _SIDE), folder).model
    fuse_preprocessing(model, checkpoint.processor, (_SIDE, _SIDE))
    onnx.save(model, folder / "bare.onnx")
    return folder / "bundle", folder / "bare.onnx"


def _gate(bundle: Path, bare: Path, settings: OverheadSettings) -> Figure:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    plain = ort.InferenceSession(str(bare), options, providers=providers)
    gated = ort.InferenceSession(str(bundle / "model.onnx"), options, providers=providers)
    feeds = {contract.IMAGE: _picture(settings.seed)[None]}
    times = paired_medians_us(
        {"plain": lambda: plain.run(None, feeds), "gated": lambda: gated.run(None, feeds)},
        rounds=settings.rounds,
    )
    return Figure(
        "fused graph / graph without the gate",
        times["gated"] / times["plain"],
        1.08,
        "x",
        f"{times['gated']:.1f} and {times['plain']:.1f} us, 1 thread",
    )


def _edge_call(bundle: Path, settings: OverheadSettings) -> Figure:
    picture = _picture(settings.seed)
    with Cascade.open(bundle, threshold=float("-inf"), threads=1) as cascade:
        run, feeds = _bare_run(cascade, picture)
        times = paired_medians_us(
            {"bare": lambda: run(contract.GATE_OUTPUTS, feeds), "ours": lambda: cascade(picture)},
            rounds=settings.rounds,
        )
    return Figure(
        "edge-answered call over session.run",
        times["ours"] - times["bare"],
        25.0,
        "us",
        f"{times['ours']:.1f} and {times['bare']:.1f} us",
    )


def _deferred_call(bundle: Path, settings: OverheadSettings) -> Figure:
    picture = _picture(settings.seed)
    with (
        running_server(["benchmarks.echo_server"]) as address,
        Cascade.open(
            bundle, cloud=address, threshold=float("inf"), threads=1, deadline_s=5
        ) as cascade,
        grpc.insecure_channel(address) as channel,
    ):
        run, feeds = _bare_run(cascade, picture)
        call = channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
        payload = _request(picture)

        def bare() -> Any:
            run(contract.GATE_OUTPUTS, feeds)
            return call(payload, timeout=5)

        times = paired_medians_us(
            {"bare": bare, "ours": lambda: cascade(picture)}, rounds=settings.rounds
        )
    return Figure(
        "deferred call over run + bare gRPC call",
        (times["ours"] - times["bare"]) / 1e3,
        0.25,
        "ms",
        f"{times['ours']:.0f} and {times['bare']:.0f} us, echo server, {len(payload)} bytes",
    )


def _bare_run(cascade: Cascade, picture: Any) -> tuple[Any, dict[str, Any]]:
    """Return `session.run` of the same session, with the same feeds."""
    feeds = {
        contract.IMAGE: picture[None],
        contract.THRESHOLD: np.array(cascade.edge.threshold, np.float32),
    }
    return cascade.edge.session.run, feeds


def _picture(seed: int) -> Any:
    shape = ("batch", _SIDE, _SIDE, 3)
    return random_input(
        contract.InputDescription(name=contract.IMAGE, dtype="uint8", shape=shape), seed
    )


def _request(picture: Any) -> bytes:
    request = pb.ModelInferRequest(model_name=contract.DEFAULT_MODEL, id="1")
    request.inputs.add(name=contract.IMAGE, datatype="UINT8", shape=[1, *picture.shape])
    request.raw_input_contents.append(picture.tobytes())
    return bytes(request.SerializeToString())


def _import_time() -> Figure:
    times: dict[str, list[float]] = {_BARE_IMPORT: [], _OUR_IMPORT: []}
    for _ in range(_IMPORT_RUNS):
        for code, measured in times.items():
            start = perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            measured.append(perf_counter() - start)
    bare, ours = (float(np.median(times[code])) for code in (_BARE_IMPORT, _OUR_IMPORT))
    return Figure(
        "import of Cascade / of its libraries",
        ours / bare,
        1.2,
        "x",
        f"{ours:.3f} and {bare:.3f} s, whole processes",
    )
