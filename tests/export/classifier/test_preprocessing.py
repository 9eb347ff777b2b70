"""Fused preprocessing is Pillow's, at odd sizes too; the expected pixels are Pillow's own."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image
from transformers import ViTImageProcessor

from edge_runtime import contract
from export.classifier.preprocessing import fuse_preprocessing
from export.session import open_graph

NEAREST, BILINEAR, BICUBIC = 0, 2, 3
SIZES = [(1, 1), (1, 9), (2, 1), (3, 3), (7, 11), (24, 20), (61, 37), (99, 101), (200, 3)]
TARGETS = [(1, 1), (7, 5), (24, 20), (33, 17), (64, 96)]


def resizer(target, resample):
    """A graph that resizes, and leaves the pixels' values alone."""
    shape = ["batch", 3, "h", "w"]
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name in ("pixel_values", "out")
    ]
    node = helper.make_node("Identity", ["pixel_values"], ["out"])
    graph = helper.make_graph([node], "model", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    processor = ViTImageProcessor(
        size={"height": target[0], "width": target[1]},
        resample=resample,
        do_rescale=False,
        do_normalize=False,
    )
    fuse_preprocessing(model, processor, target)
    return open_graph(model)


def largest_difference(picture, session, target, resample):
    (pixels,) = session.run(None, {contract.IMAGE: picture[None]})
    expected = np.asarray(Image.fromarray(picture).resize(target[::-1], resample), np.float32)
    return np.abs(pixels[0].transpose(1, 2, 0) - expected).max()


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_nearest_picks_pillows_pixels(target, generator):
    session = resizer(target, NEAREST)
    # 1 to 80 pixels: at these sizes many float64 steps fall near a pixel's edge.
    for size in [*SIZES, *((n, 81 - n) for n in range(1, 81))]:
        noise = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        assert largest_difference(noise, session, target, NEAREST) == 0, size


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_bilinear_is_pillows_to_the_last_steps_on_noise(target, generator):
    session = resizer(target, BILINEAR)
    for size in SIZES:
        noise = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        assert largest_difference(noise, session, target, BILINEAR) <= 2, size


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_bicubic_is_pillows_where_it_does_not_overshoot_twice(target, generator):
    session = resizer(target, BICUBIC)
    for height, width in SIZES:
        # Grey levels that the filter's overshoot keeps inside 0 to 255.
        noise = generator.integers(70, 186, (height, width, 3), dtype=np.uint8)
        assert largest_difference(noise, session, target, BICUBIC) <= 2, (height, width)
        wide = generator.integers(0, 256, (target[0], width, 3), dtype=np.uint8)
        assert largest_difference(wide, session, target, BICUBIC) <= 1, (target[0], width)
