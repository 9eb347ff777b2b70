"""A language model whose weights lie beside the graph goes through every command for bundles."""

import os
import shutil
from functools import partial

import pytest

from edge_runtime import __main__ as runtime
from edge_runtime.cli import main
from edge_runtime.language import Decoder
from export import __main__ as exporting
from export import quantization
from export.external import load_onnx
from export.language import pipeline

pytestmark = pytest.mark.slow
LIMIT = 1 << 12  # bytes of weights that stay in the graph


@pytest.fixture
def run(capsys):
    def run(module, *words):
        name = f"python -m {module.__name__.split('.')[0]}"
        status = main(name, module.COMMANDS, argv=[str(word) for word in words])
        out, error = capsys.readouterr()
        assert status == 0, error
        return out

    return run


def said(folder, prompts):
    answers = Decoder.open(folder).generate(prompts, stop_when_certain=False)
    return [(answer.tokens, answer.confidence) for answer in answers]


@pytest.mark.parametrize("quantize", ["none", "fp16", "int8-dynamic", "int4"])
def test_every_command_takes_it(
    quantize, run, half_taught, things, exported, monkeypatch, tmp_path
):
    monkeypatch.setattr(pipeline, "load_onnx", partial(load_onnx, inside_bytes=LIMIT))
    monkeypatch.setattr(quantization, "_LARGE", 64)  # the model's matrices are small
    folder = tmp_path / "bundle"
    words = ["--calibrate", things, "--target-deferral", 0.25, "--max-flips", 1]
    model = ["--checkpoint", half_taught, "--quantize", quantize]
    run(exporting, "lm", *model, "--out", folder, *words)
    # A quantized graph holds its weights: it is small enough.
    assert (folder / "model.onnx.data").exists() == (quantize == "none")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    prompts = ["what", "a thing"]
    if quantize != "int4":
        assert said(folder, prompts) == said(exported(quantize), prompts)
    run(exporting, "inspect", "--bundle", folder)
    flips = ["--against", half_taught, "--max-flips", 1]
    assert "accuracy" in run(exporting, "verify", "--bundle", folder, "--task", things, *flips)
    run(exporting, "retune", "--bundle", folder, "--calibrate", things, "--target-deferral", 0.5)
    # A second name, as copies that share their content have.
    shutil.copytree(folder, tmp_path / "linked", copy_function=os.link)
    assert "confidence" in run(runtime, "generate", "--bundle", tmp_path / "linked", "what")
