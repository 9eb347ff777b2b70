"""Decisions at a threshold, and pictures of every shape."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers import ConvNextImageProcessor, ViTImageProcessor

from export.commands.build import BuildSettings
from export.verification import at_threshold
from train.models import build, save


def test_a_value_a_hair_beside_the_threshold_is_explained_by_rounding():
    one = np.array([0.7, 0.9, 0.2], np.float32)
    other = one + np.array([-2e-4, 1e-4, 0.0], np.float32)
    assert at_threshold(one, other, float(one[0])).tolist() == [True, False, False]


def test_a_real_mismatch_and_another_threshold_are_not_explained_by_rounding():
    one = np.array([0.7, 0.9, 0.2], np.float32)
    assert not at_threshold(one, one + np.float32(0.05), 0.72).any()
    assert not at_threshold(one, one, 0.75).any()
    assert not at_threshold(one, one * np.float32(np.nan), 0.7).any()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of 70 pictures of one size, as one camera makes them."""
    folder, draws = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(70):
        place = folder / "ab"[number % 2]
        place.mkdir(exist_ok=True)
        coarse = draws.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((200, 150), 3).save(place / f"{number}.png")
    return folder


def write_checkpoint(folder, processor, size=(32, 32)):
    save(build("small-cnn", labels=["a", "b"], image_size=size, seed=1), folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_small_set_that_gives_the_threshold_is_no_mismatch(photographs, tmp_path):
    size = {"height": 32, "width": 32}
    checkpoint = write_checkpoint(tmp_path / "c", ViTImageProcessor(size=size, resample=3))
    shares = set()
    for ratio in (0.1, 0.3, 0.5, 0.7):
        out = tmp_path / f"b{ratio}"
        line = {"calibrate": str(photographs), "split": "train", "target_deferral": ratio}
        BuildSettings(checkpoint=checkpoint, out=out, **line).run()
        record = json.loads((out / "bundle.json").read_text())["verification"]["preprocessing"]
        assert record["decisions_differing_clearly"] == 0
        shares.add(record["decisions_differing"])
        assert record["pixel_difference_of_shapes"] <= 2.01
    assert max(shares) <= 3 / 70


@pytest.mark.slow
@pytest.mark.parametrize("edge", [32, 384])
def test_a_convnext_processor_crops_small_pictures_and_warps_large_ones(edge, tmp_path):
    processor = ConvNextImageProcessor(size={"shortest_edge": edge}, resample=2)
    checkpoint = write_checkpoint(tmp_path / "c", processor, (edge, edge))
    BuildSettings(checkpoint=checkpoint, out=tmp_path / "b", threshold=0.5).run()
