"""Every kind of classifier goes the whole way: export, inspect, verify, run, doctor, serve.

One parametrised test for a dozen kinds; the commands run in this process, the server is a real one
on loopback.
"""

import asyncio
import contextlib
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tools import kinds
from tools.kinds import Kind, softmax
from tools.speller import Served
from tools.texts import write_classifier
from transformers import AutoImageProcessor, ResNetConfig, ResNetForImageClassification

from benchmarks.__main__ import COMMANDS as BENCHMARKS
from cloud_stub.models import open_backend
from cloud_stub.settings import ServeSettings
from edge_runtime import Cascade, contract
from edge_runtime.__main__ import COMMANDS as RUNTIME
from edge_runtime.cli import main
from edge_runtime.edge_model import EdgeModel
from export.__main__ import COMMANDS as EXPORT
from export.__main__ import DEFAULT as BUILD
from train import data
from train.models import open_checkpoint

pytestmark = pytest.mark.slow

NUMBERS = (
    *(kinds.logits, kinds.probabilities, kinds.log_probabilities, kinds.single_logit),
    *(kinds.single_probability, kinds.logistic_regression, kinds.random_forest),
    *(kinds.vector_machine, kinds.batch_of_one, kinds.opset_11, kinds.grey_pictures),
    *(kinds.series, kinds.waveform),
)
OTHERS = ("convolutions", "transformers' ResNet", "pictures as ONNX", "texts")


def of_checkpoint(checkpoint, name, **more):
    """Return the kind of a checkpoint, calibrated on data of ours."""
    inputs = data.load(name).test.inputs
    model = open_checkpoint(checkpoint, kind=None)
    takes = "str" if model.kind == "text" else "uint8"
    source = ("--checkpoint", str(checkpoint))
    return Kind(source, name, inputs, lambda rows: softmax(model.predict(rows)), takes, **more)


@pytest.fixture
def kind(request, tmp_path):
    """A model of the kind that the test asks for, in files."""
    make = request.param
    if callable(make):
        return make(tmp_path)
    if make == "texts":
        texts = request.getfixturevalue("texts")
        folder = write_classifier(tmp_path / "bert", scale=3.0)
        return of_checkpoint(folder, str(texts))
    checkpoint = request.getfixturevalue("small_checkpoint")
    if make == "transformers' ResNet":
        checkpoint = residual_net(tmp_path / "resnet", processor=checkpoint)
    found = of_checkpoint(checkpoint, "digits", more=("--exporter", "torch"))
    if make == "pictures as ONNX":
        from tools.foreign_models import Logits, write_onnx

        path = write_onnx(Logits(open_checkpoint(checkpoint)), tmp_path / "m.onnx")
        source = ("--onnx", str(path), "--processor", str(checkpoint))
        return Kind(source, "digits", found.inputs, found.belief, "uint8")
    return found


def residual_net(folder, *, processor):
    """Write an untrained ResNet of transformers for digits."""
    torch.manual_seed(0)
    names = {str(i): str(i) for i in range(10)}
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", id2label=names
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    AutoImageProcessor.from_pretrained(processor, use_fast=False).save_pretrained(folder)
    return folder


def command(module, commands, *words, default=None):
    argv = [str(word) for word in words]
    assert main(f"python -m {module}", commands, default=default, argv=argv) == 0


@contextlib.contextmanager
def server(*, bundle: Path):
    """Serve a bundle as `cloud_stub --bundle` does, in a thread; yield its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(timeout=60)

    async def start():
        backend = open_backend(ServeSettings(bundle=bundle))
        return await Served(backend, name=contract.DEFAULT_MODEL).__aenter__()

    served = wait(start())
    try:
        yield served.address
    finally:
        wait(served.__aexit__())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def input_file(kind, folder):
    """Write one input as people have it, and return (its file, its row)."""
    row = kind.inputs[0]
    if kind.takes == "str":
        file = folder / "input.txt"
        file.write_text(row, encoding="utf-8")
    else:
        file = folder / "input.npy"
        np.save(file, row)
    return file, row


@pytest.mark.parametrize(
    "kind", [*NUMBERS, *OTHERS], indirect=True, ids=lambda k: getattr(k, "__name__", k)
)
def test_every_kind_goes_the_whole_way(kind, tmp_path, capsys):
    bundle = tmp_path / "bundle"
    goal = ("--calibrate", kind.data, "--target-deferral", "0.3")
    goal = goal if kind.data else ("--threshold", "0.6")
    command("export", EXPORT, *kind.source, *kind.more, "--out", bundle, *goal, default=BUILD)
    command("export", EXPORT, "inspect", "--bundle", bundle)
    if kind.data:
        command("export", EXPORT, "verify", "--bundle", bundle, "--data", kind.data)

    model = EdgeModel.open(bundle)
    rows = [kind.inputs[i] for i in range(kinds.ROWS)]
    expected = np.asarray(kind.belief(rows if kind.takes == "str" else np.stack(rows)))
    gated = model(model.reader.batch(rows))
    np.testing.assert_array_equal(gated.prediction, expected.argmax(1))
    np.testing.assert_allclose(gated.confidence, expected.max(1), atol=1e-4)
    assert model.metadata.input.dtype == kind.takes

    file, row = input_file(kind, tmp_path)
    capsys.readouterr()
    command("edge_runtime", RUNTIME, "run", "--bundle", bundle, "--json", file)
    answer = json.loads(capsys.readouterr().out.splitlines()[0])
    assert answer["label"] == model.labels[expected[0].argmax()]
    with server(bundle=bundle) as address:
        command("edge_runtime", RUNTIME, "doctor", "--bundle", bundle, "--cloud", address)
        assert "FAIL" not in capsys.readouterr().out
        words = ("--bundle", bundle, "--cloud", address, "--calls", "5")
        command("benchmarks", BENCHMARKS, "latency", *words)
        with Cascade.open(bundle, cloud=address, threshold=float("inf"), deadline_s=30) as cascade:
            deferred = cascade.batch(rows[:9])
            assert [one.source for one in deferred] == ["cloud"] * 9
            assert [one.prediction for one in deferred] == list(gated.prediction[:9])
            assert cascade(row).label == answer["label"]
