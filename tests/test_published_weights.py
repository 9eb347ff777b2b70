"""Weights and pictures nobody here made: the whole chain has to give the published accuracy.

164 test pictures of CIFAR-10 are available without loss. On them the ResNets of
github.com/akamaster/pytorch_resnet_cifar10 are right 151 times (20 layers) and 156 times (56), as a
plain PyTorch script of the repository's own model says.
"""

import numpy as np
import pytest
from tools.foreign_models import Logits, write_onnx, write_program

from edge_runtime import Cascade, EdgeModel
from export.commands.build import BuildSettings
from train import data
from train.classifier.settings import ConvertSettings
from train.models import open_checkpoint

pytestmark = pytest.mark.slow

WEIGHTS = {
    ("resnet-20", "resnet20-12fca82f.th"): 151,
    ("resnet-56", "resnet56-4bfd9763.th"): 156,
}


@pytest.fixture(scope="module")
def lossless(real_data):
    return data.load_all(str(real_data / "cifar10" / "lossless_test-00000-of-00001.parquet"))


def converted(model, file, lossless, real_data, out):
    ConvertSettings(
        weights=real_data / "weights" / "pytorch_resnet_cifar10" / file,
        model=model,
        labels=lossless.label_names,
        image_mean=(0.485, 0.456, 0.406),
        image_std=(0.229, 0.224, 0.225),
        out=out,
    ).run()
    return open_checkpoint(out)


@pytest.mark.parametrize(("model", "file"), WEIGHTS)
def test_published_weights_keep_their_accuracy_to_the_device(
    model, file, lossless, real_data, tmp_path
):
    checkpoint = converted(model, file, lossless, real_data, tmp_path / "checkpoint")
    predicted = checkpoint.predict(lossless.inputs).argmax(axis=-1)
    BuildSettings(checkpoint=tmp_path / "checkpoint", out=tmp_path / "b", threshold=0.5).run()
    with Cascade.open(tmp_path / "b", threshold=float("-inf")) as cascade:
        answers = [cascade(picture) for picture in lossless.inputs]
    wanted = WEIGHTS[model, file]
    assert len(lossless) == 164
    assert (predicted == lossless.labels).sum() == wanted
    assert [a.label for a in answers] == [checkpoint.labels[i] for i in predicted]
    right = [
        a.label == lossless.label_names[y] for a, y in zip(answers, lossless.labels, strict=True)
    ]
    assert np.sum(right) == wanted


@pytest.mark.parametrize(("model", "file"), [("resnet-32", "resnet32-d509ac18.th")])
def test_published_weights_decide_the_same_from_three_sources(
    model, file, lossless, real_data, tmp_path
):
    folder = tmp_path / "checkpoint"
    module = Logits(converted(model, file, lossless, real_data, folder))
    foreign = {"processor": folder, "labels": folder}
    sources = {
        "checkpoint": {"checkpoint": folder},
        "program": {
            "program": write_program(module, tmp_path / "model.pt2", shape=(3, 32, 32)),
            **foreign,
        },
        "onnx": {
            "onnx": write_onnx(module, tmp_path / "model.onnx", size=(32, 32)),
            **foreign,
        },
    }
    answers = {}
    for name, named in sources.items():
        BuildSettings(**named, out=tmp_path / f"bundle-{name}", threshold=0.9).run()
        answers[name] = EdgeModel.open(tmp_path / f"bundle-{name}")(lossless.array())
    expected = answers["checkpoint"]
    assert 0 < expected.defer.sum() < len(lossless)
    for name in ("program", "onnx"):
        np.testing.assert_array_equal(answers[name].prediction, expected.prediction)
        np.testing.assert_array_equal(answers[name].defer, expected.defer)
        np.testing.assert_allclose(answers[name].confidence, expected.confidence, atol=1e-5)
