"""Models with a fixed batch of one: their rows are run one by one, through every command."""

import numpy as np
import onnx
import pytest
import torch
from tools.decisions import assert_decides_like
from tools.foreign_models import Logits, write_onnx, write_program
from transformers import ViTImageProcessor

from cloud_stub.backends.backend import Batch
from cloud_stub.backends.classifiers import BundleBackend
from edge_runtime.bundle import read_bundle
from edge_runtime.edge_model import EdgeModel
from export.commands.inspect import describe
from export.commands.retune import RetuneSettings
from export.commands.verify import VerifySettings
from train.models import open_checkpoint


class Alone(Logits):
    """Logits that depend on all rows of a batch, so that a batch of several is another model."""

    def forward(self, x):
        z = super().forward(x)
        return z - z.mean()


@pytest.fixture
def alone(small_checkpoint, tmp_path):
    """A model that cannot take several rows, and what it gives for each by itself."""
    module = Alone(open_checkpoint(small_checkpoint))
    return write_onnx(module, tmp_path / "alone.onnx", batch=1), module


def one_by_one(path, pixels):
    import onnxruntime as ort

    session = ort.InferenceSession(path)
    return np.concatenate([session.run(None, {"input": row[None]})[0] for row in pixels])


def batch_of(bundle):
    return onnx.load(bundle / "model.onnx").graph.input[0].type.tensor_type.shape.dim[0]


def test_the_batch_axis_is_freed_where_that_changes_nothing(
    module, model, export, pixels, digits, tmp_path
):
    bundle = export(write_onnx(module, tmp_path / "one.onnx", batch=1))
    assert batch_of(bundle).dim_param == "batch"
    assert "rows_at_once" not in read_bundle(bundle).metadata.extra
    assert_decides_like(bundle, model, pixels, digits)


@pytest.mark.parametrize("look", ["none", "mirror"])
def test_else_rows_are_run_one_by_one(look, alone, model, export, pixels, digits):
    settings = {} if look == "none" else {"second_look": look, "band": 0.2}
    bundle = export(alone[0], **settings)
    assert batch_of(bundle).dim_value == 1
    assert any("run row by row" in line for line in describe(read_bundle(bundle)))
    opened = EdgeModel.open(bundle)
    assert opened.metadata.input.shape[0] == "batch"
    single = np.concatenate([opened(digit[None]).confidence for digit in digits])
    np.testing.assert_array_equal(opened(digits).confidence, single)
    if look == "none":  # softmax does not see what was subtracted
        assert_decides_like(bundle, model, pixels, digits)
    VerifySettings(bundle=bundle, data="digits").run()
    RetuneSettings(bundle=bundle, calibrate="digits", target_deferral=0.5).run()
    tuned = EdgeModel.open(bundle)(digits)
    assert tuned.defer.mean() > 0.4
    served = next(
        iter(BundleBackend(bundle, 1).infer(Batch({"image": digits}, len(digits), np.inf)))
    )
    np.testing.assert_array_equal(served["confidence"], tuned.confidence)


def test_pictures_of_any_size_are_resized_one_by_one(alone, export, tmp_path):
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "processor")
    bundle = export(alone[0], processor=tmp_path / "processor")
    large = np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), np.uint8)
    assert EdgeModel.open(bundle)(large).defer.shape == (5,)


@pytest.mark.slow
def test_a_program_may_have_one_too(alone, export, pixels, digits, tmp_path):
    bundle = export(write_program(alone[1], tmp_path / "alone.pt2", batch=1))
    assert batch_of(bundle).dim_value == 1
    expected = torch.softmax(torch.from_numpy(one_by_one(alone[0], pixels)), -1).max(-1).values
    np.testing.assert_allclose(EdgeModel.open(bundle)(digits).confidence, expected, atol=1e-5)


@pytest.mark.slow
def test_it_is_quantized(alone, export, digits):
    bundle = export(alone[0], quantize="int8", max_flips=1)
    assert 0.1 < EdgeModel.open(bundle)(digits).defer.mean() < 0.5
