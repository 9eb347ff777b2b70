"""Measures the figures of `overhead`, each beside its bare peer in alternating rounds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from benchmarks.bundles import SIDE, random_picture, small_cnn_bundle
from benchmarks.figure import Figure, write_figures
from benchmarks.gate_figures import entropy_of_large_vocabulary
from benchmarks.loss_figures import loss_of_large_vocabulary, training_step
from benchmarks.overhead import OverheadSettings
from benchmarks.timing import paired_medians_us
from edge_runtime import contract
from edge_runtime.environment import hardware
from export.preprocessing import fuse_preprocessing
from export.sources.checkpoint import image_graph
from train.models import open_checkpoint


def measure(settings: OverheadSettings) -> None:
    """Print every figure, and write them where asked."""
    with tempfile.TemporaryDirectory() as folder:
        figures = [
            _gate(Path(folder), settings),
            entropy_of_large_vocabulary(settings.seed),
            training_step(settings.seed, settings.rounds),
            loss_of_large_vocabulary(settings.seed),
        ]
    machine = hardware()
    print(f"{machine['cores']} cores of {machine['processor']}; medians, alternating rounds")
    for figure in figures:
        print(figure.line())
    if settings.out is not None:
        write_figures(settings.out, figures)


def _gate(folder: Path, settings: OverheadSettings) -> Figure:
    import onnxruntime as ort

    bundle = small_cnn_bundle(folder, settings.seed)
    bare = _bare_graph(folder)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    plain = ort.InferenceSession(str(bare), options, providers=providers)
    gated = ort.InferenceSession(str(bundle / "model.onnx"), options, providers=providers)
    feeds = {contract.IMAGE: random_picture(SIDE, settings.seed)[None]}
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


def _bare_graph(folder: Path) -> Path:
    """Write the graph of the same checkpoint with preprocessing but without the gate."""
    checkpoint = open_checkpoint(folder / "small")
    model = image_graph(checkpoint, (SIDE, SIDE), folder).model
    fuse_preprocessing(model, checkpoint.processor, (SIDE, SIDE))
    onnx.save(model, folder / "bare.onnx")
    return folder / "bare.onnx"
