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


def batch_of(bundle):
    return onnx.load(bundle / "model.onnx").graph.input[0].type.tensor_type.shape.dim[0]


def test_the_batch_axis_is_freed_where_that_changes_nothing(
    module, model, export, pixels, digits, tmp_path
):
    bundle = export(write_onnx(module, tmp_path / "one.onnx", batch=1))
    assert batch_of(bundle).dim_param == "batch"
    assert "rows_at_once" not in read_bundle(bundle).metadata.extra
    assert_decides_like(bundle, model, pixels, digits)


def test_else_rows_are_run_one_by_one(alone, model, export, pixels, digits):
    bundle = export(alone[0])
    assert batch_of(bundle).dim_value == 1
    assert any("run row by row" in line for line in describe(read_bundle(bundle)))
    assert EdgeModel.open(bundle).metadata.input.shape[0] == "batch"
    assert_decides_like(bundle, model, pixels, digits)  # softmax does not see what was subtracted
    VerifySettings(bundle=bundle, data="digits").run()
    RetuneSettings(bundle=bundle, calibrate="digits", target_deferral=0.5).run()
    tuned = EdgeModel.open(bundle)(digits)
    assert tuned.defer.mean() > 0.4
    batch = Batch({"image": digits}, len(digits), np.inf)
    served = next(iter(BundleBackend(bundle, 1).infer(batch)))
    np.testing.assert_array_equal(served["confidence"], tuned.confidence)


def test_a_second_look_is_one_of_each_row(alone, export, digits):
    opened = EdgeModel.open(export(alone[0], second_look="mirror", band=0.2))
    single = np.concatenate([opened(digit[None]).confidence for digit in digits[:99]])
    np.testing.assert_array_equal(opened(digits[:99]).confidence, single)


def test_pictures_of_any_size_are_resized_one_by_one(alone, export, tmp_path):
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "processor")
    bundle = export(alone[0], processor=tmp_path / "processor")
    large = np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), np.uint8)
    assert EdgeModel.open(bundle)(large).defer.shape == (5,)


class Sum(torch.nn.Module):
    def forward(self, x):
        z = x * torch.tensor([1.0, -2.0, 3.0])
        return z - z.mean()


@pytest.mark.slow
def test_a_program_may_have_one_too(export, without_data, tmp_path):
    without_data["labels"].write_text("a\nb\nc\n")
    path = write_program(Sum(), tmp_path / "sum.pt2", shape=(3,), batch=1)
    bundle = export(path, **without_data)
    assert batch_of(bundle).dim_value == 1
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    expected = torch.softmax(torch.from_numpy(x) * torch.tensor([1.0, -2.0, 3.0]), -1)
    np.testing.assert_allclose(
        EdgeModel.open(bundle)(x).confidence, expected.max(-1).values, atol=1e-6
    )


@pytest.mark.slow
def test_it_is_quantized(alone, export, digits):
    bundle = export(alone[0], quantize="int8", max_flips=1)
    assert 0.1 < EdgeModel.open(bundle)(digits).defer.mean() < 0.5
