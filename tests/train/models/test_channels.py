"""Models of grey pictures take colour pictures; a single mean is that of each colour."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tools.foreign_models import GOAL
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from edge_runtime import metrics
from edge_runtime.edge_model import EdgeModel
from export.commands.build import BuildSettings
from train.errors import CheckpointError
from train.models import build, open_checkpoint, save
from train.models.channels import spread_statistics

LABELS = [str(i) for i in range(10)]
NAMES = {"num_labels": 10, "id2label": dict(enumerate(LABELS))}
SIZE = {"height": 8, "width": 8}
SMALL = {
    "vit": (
        ViTForImageClassification,
        ViTConfig,
        {"image_size": 8, "patch_size": 4, "hidden_size": 16, "intermediate_size": 16}
        | {"num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.5},
    ),
    "resnet": (
        ResNetForImageClassification,
        ResNetConfig,
        {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"},
    ),
    "convnext": (
        ConvNextForImageClassification,
        ConvNextConfig,
        {"hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2, "initializer_range": 0.5},
    ),
}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes an untrained model of some channels with its processor."""

    def written(kind="vit", channels=1, **processor):
        auto, config, sizes = SMALL[kind]
        torch.manual_seed(0)
        model = auto(config(num_channels=channels, **sizes, **NAMES))
        model.save_pretrained(tmp_path / kind)
        ViTImageProcessor(size=SIZE, **processor).save_pretrained(tmp_path / kind)
        return tmp_path / kind

    return written


def grey_logits(folder, pictures, mean=0.25, std=0.5):
    """Return the logits that transformers' own model gives Pillow's grey pictures."""
    grey = np.stack([np.asarray(Image.fromarray(p).convert("L"), np.float32) for p in pictures])
    pixels = torch.from_numpy((grey / 255 - mean) / std)[:, None]
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(pixel_values=pixels).logits.numpy()


@pytest.mark.parametrize("kind", SMALL)
def test_a_model_of_grey_pictures_gives_them_the_same_logits(kind, write, pictures, tmp_path):
    folder = write(kind, image_mean=[0.25], image_std=[0.5])
    expected = grey_logits(folder, pictures)
    assert np.ptp(expected, axis=0).max() > 1e-3
    checkpoint = open_checkpoint(folder)
    np.testing.assert_allclose(checkpoint.predict(list(pictures)), expected, atol=1e-4)
    save(checkpoint, tmp_path / "again")
    again = open_checkpoint(tmp_path / "again").predict(list(pictures))
    np.testing.assert_allclose(again, expected, atol=1e-4)


def test_colours_count_as_pillow_weighs_them(write, generator):
    folder = write(image_mean=[0.25], image_std=[0.5])
    colours = generator.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    logits, expected = open_checkpoint(folder).predict(list(colours)), grey_logits(folder, colours)
    # Pillow rounds grey to 8 bits: half a step changes the logits of such a model by this much.
    flat = np.repeat(colours.mean((1, 2, 3), dtype=np.uint64).astype(np.uint8), 192)
    assert (
        np.abs(logits - expected).max()
        < 0.05
        < np.abs(logits - grey_logits(folder, flat.reshape(colours.shape))).max()
    )


@pytest.mark.slow
def test_the_bundle_of_a_model_of_grey_pictures_decides_alike(write, pictures, tmp_path):
    folder = write(image_mean=[0.25], image_std=[0.5])
    BuildSettings(checkpoint=folder, out=tmp_path / "bundle", **GOAL).run()
    gated = EdgeModel.open(tmp_path / "bundle")(pictures)
    expected = grey_logits(folder, pictures)
    np.testing.assert_array_equal(gated.prediction, expected.argmax(-1))
    np.testing.assert_allclose(gated.confidence, metrics.max_softmax(expected), atol=1e-5)


@pytest.mark.parametrize("mean", [[0.25], 0.25, [0.25] * 3])
def test_a_single_mean_is_that_of_each_colour(mean, write, pictures):
    std = [0.5] * 3 if isinstance(mean, list) and len(mean) > 1 else [0.5]
    checkpoint = open_checkpoint(write(channels=3, image_mean=mean, image_std=std))
    pixels = checkpoint.pixel_values(list(pictures)).numpy()
    np.testing.assert_allclose(
        pixels, (pictures.transpose(0, 3, 1, 2) / 255 - 0.25) / 0.5, atol=1e-6
    )


def test_a_processor_that_normalises_without_a_mean_is_given_none():
    processor = SimpleNamespace(do_normalize=True, image_std=0.5)
    spread_statistics(processor, "here")
    assert vars(processor) == {"do_normalize": True, "image_std": [0.5] * 3}


def test_the_configuration_of_a_model_of_grey_pictures_may_be_a_start(write, pictures):
    folder = write(image_mean=[0.25], image_std=[0.5])
    (folder / "model.safetensors").unlink()
    assert build(str(folder), labels=["a", "b"]).predict(list(pictures)).shape == (40, 2)


@pytest.mark.parametrize(
    ("channels", "processor", "says"),
    [
        (4, {}, "3 channels in .*, got num_channels 4"),
        (1, {"image_mean": [0.1, 0.2, 0.3]}, "one image_mean and one image_std for the grey"),
        (3, {"image_mean": [0.1, 0.2]}, "expected an image_mean of 3 numbers in .*, got 2"),
    ],
)
def test_other_models_and_processors_are_refused(channels, processor, says, write):
    folder = write(channels=channels, **processor)
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(folder)
