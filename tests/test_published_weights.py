"""Weights and pictures nobody here made: the whole chain has to give the published accuracy.

164 test pictures of CIFAR-10 are available without loss. On them the ResNets of
github.com/akamaster/pytorch_resnet_cifar10 are right 151 times (20 layers) and 156 times (56), as a
plain PyTorch script of the repository's own model says.
"""

import numpy as np
import pytest

from edge_runtime import Cascade
from export.commands.build import BuildSettings
from train import data
from train.convert import ConvertSettings
from train.models import open_checkpoint

pytestmark = pytest.mark.slow

WEIGHTS = {
    ("resnet-20", "resnet20-12fca82f.th"): 151,
    ("resnet-56", "resnet56-4bfd9763.th"): 156,
}


@pytest.fixture(scope="module")
def lossless(real_data):
    return data.load_all(str(real_data / "cifar10" / "lossless_test-00000-of-00001.parquet"))


@pytest.mark.parametrize(("model", "file"), WEIGHTS)
def test_published_weights_keep_their_accuracy_to_the_device(
    model, file, lossless, real_data, tmp_path
):
    ConvertSettings(
        weights=real_data / "weights" / "pytorch_resnet_cifar10" / file,
        model=model,
        labels=lossless.label_names,
        image_mean=(0.485, 0.456, 0.406),
        image_std=(0.229, 0.224, 0.225),
        out=tmp_path / "checkpoint",
    ).run()
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
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
