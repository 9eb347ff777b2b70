"""Programs of `torch.export`: which ones are accepted, and their outputs."""

import numpy as np
import pytest
import torch
from tools.decisions import pixels_of
from tools.foreign_models import Logits, write_program

from edge_runtime.bundle import read_bundle
from edge_runtime.edge_model import EdgeModel
from train.models import open_checkpoint


class Named(torch.nn.Module):
    """A module with a dict of outputs."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        logits = self.model(x)
        return {"coarse": logits[:, :3], "embedding": x.mean((2, 3)), "scores": logits}


class Squashed(Named):
    def forward(self, x):
        return self.model(x).softmax(-1)


class Two(Named):
    def forward(self, x, y):
        return self.model(x) + self.model(y)


@pytest.mark.slow
def test_several_candidates_are_named(module, export, refused, small_checkpoint, digits, tmp_path):
    path = write_program(Named(module), tmp_path / "named.pt2")
    refused(path, r"got several \(coarse, embedding, scores\): name it with --logits")
    refused(path, "got 'score': name one of its outputs coarse, embedding, scores", logits="score")
    gated = EdgeModel.open(export(path, logits="scores"))(digits)
    expected = open_checkpoint(small_checkpoint).predict(digits).argmax(-1)
    np.testing.assert_array_equal(gated.prediction, expected)


@pytest.mark.slow
def test_half_precision(export, large_checkpoint, digits, tmp_path):
    # Its layers are many enough for a decision or two to hang on the rounding.
    half = Logits(open_checkpoint(large_checkpoint)).half()
    path = write_program(half, tmp_path / "half.pt2", dtype=torch.float16)
    bundle = export(path, processor=large_checkpoint)
    graph = read_bundle(bundle).verification["graph"]
    assert 1e-5 < graph["confidence_difference_max"] < 2**-8
    pixels = torch.from_numpy(pixels_of(large_checkpoint, digits)).half()
    with torch.inference_mode():
        confidence = half(pixels).double().softmax(-1).amax(-1)
    np.testing.assert_allclose(EdgeModel.open(bundle)(digits).confidence, confidence, atol=2**-8)


class Inside(Named):
    """bfloat16 between inputs and outputs of float32."""

    def forward(self, x):
        return self.model(x.bfloat16()).float()


@pytest.mark.slow
def test_bfloat16_is_refused(small_checkpoint, refused, tmp_path):
    bf16 = Logits(open_checkpoint(small_checkpoint)).bfloat16()
    path = write_program(bf16, tmp_path / "bf16.pt2", dtype=torch.bfloat16)
    refused(path, "x is BFLOAT16: convert the model to float32")
    path = write_program(Inside(bf16), tmp_path / "inside.pt2")
    refused(path, r"ONNX Runtime .* takes .*bfloat16.*: export it with .* types")


class Bytes(Named):
    """Takes uint8 [batch, height, width, 3]."""

    def forward(self, x):
        return self.model((x.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)


@pytest.mark.slow
def test_bytes_with_channels_last(module, export, without_data, digits, tmp_path):
    own = Bytes(module)
    path = write_program(own, tmp_path / "bytes.pt2", shape=(8, 8, 3), dtype=torch.uint8)
    gated = EdgeModel.open(export(path, **without_data))(digits)
    with torch.inference_mode():
        probabilities = own(torch.from_numpy(digits)).softmax(-1)
    np.testing.assert_array_equal(gated.prediction, probabilities.argmax(-1))
    np.testing.assert_allclose(gated.confidence, probabilities.amax(-1), atol=1e-5)


class Map(Named):
    def forward(self, x):
        return self.model(x)[:, :, None, None]


@pytest.mark.slow
def test_logits_of_one_pixel_are_taken(module, export, small_checkpoint, digits, tmp_path):
    path = write_program(Map(module), tmp_path / "map.pt2")
    gated = EdgeModel.open(export(path))(digits)
    expected = open_checkpoint(small_checkpoint).predict(digits).argmax(-1)
    np.testing.assert_array_equal(gated.prediction, expected)


class Classes(Named):
    def forward(self, x):
        return {"label": self.model(x).argmax(-1), "rows": self.model(x).sum(-1)}


@pytest.mark.slow
@pytest.mark.parametrize("logits", [None, "label", "rows"])
def test_a_program_without_logits_is_refused(logits, module, refused, tmp_path):
    path = write_program(Classes(module), tmp_path / "classes.pt2")
    refused(path, "logits", logits=logits)


@pytest.mark.slow
def test_a_program_is_verified_against_itself(module, export, tmp_path):
    bundle = export(write_program(module, tmp_path / "model.pt2"))
    graph = read_bundle(bundle).verification["graph"]
    assert graph["inputs"] == 256
    assert graph["confidence_difference_max"] < 1e-6


@pytest.mark.slow
def test_probabilities_are_recognised_by_their_softmax(module, export, pixels, digits, tmp_path):
    bundle = export(write_program(Squashed(module), tmp_path / "squashed.pt2"))
    with torch.inference_mode():
        expected = Squashed(module)(torch.from_numpy(pixels)).max(-1).values
    gated = EdgeModel.open(bundle)(digits)
    np.testing.assert_allclose(gated.confidence, expected, atol=1e-5)
    head = read_bundle(bundle).metadata.extra["head"]
    assert head == "probabilities; the model ends in Softmax"


def test_a_fixed_batch_axis_is_refused(module, refused, tmp_path):
    path = write_program(module, tmp_path / "fixed.pt2", batch=4)
    refused(path, "free batch axis .* always takes 4: .*dynamic_shapes")


def test_a_program_of_two_inputs_is_refused(module, refused, tmp_path):
    example = (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))
    torch.export.save(torch.export.export(Two(module), example), tmp_path / "two.pt2")
    refused(tmp_path / "two.pt2", "it takes 2 inputs")
