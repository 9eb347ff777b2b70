"""Each branch of the image processors of transformers is fused, or refused in words."""

from types import SimpleNamespace

import numpy as np
import pytest
import transformers
from onnx import TensorProto, helper

from edge_runtime import contract
from export.classifier.preprocessing import fuse_preprocessing
from export.classifier.processor import steps_of
from export.classifier.verification import MAX_STEPS, verify_shapes
from export.errors import PreprocessingError, VerificationError
from export.session import open_graph
from export.sources.probes import image_size

# height, width: tiny, upright, broad, square, beside the sizes below, and large.
SHAPES = [(1, 1), (2, 3), (3, 9), (12, 50), (50, 12), (24, 24), (25, 24), (41, 66), (231, 160)]
SQUARE = {"height": 24, "width": 24}
BROAD = {"height": 20, "width": 31}
SHORT = {"shortest_edge": 24}
BRANCHES = {
    "warp": ("ViT", {"size": BROAD}),
    "nearest": ("ViT", {"size": BROAD, "resample": 0}),
    "settings that the class ignores": ("MobileViT", {"size": SQUARE, "do_normalize": True}),
    "labels of segmentation": ("Beit", {"size": SQUARE, "do_reduce_labels": True}),
    "colours": ("Siglip", {"size": SQUARE, "do_convert_rgb": True}),
    "no rescale": ("Siglip", {"size": SQUARE, "do_rescale": False}),
    "raw pixels": ("ViT", {"size": SQUARE, "do_rescale": False, "do_normalize": False}),
    "one mean": ("Pvt", {"size": SQUARE, "image_mean": 0.4, "image_std": 0.2}),
    "three deviations": ("Segformer", {"size": SQUARE, "image_std": [0.1, 0.5, 0.9]}),
    "crop of a warp": ("DeiT", {"size": BROAD, "crop_size": {"height": 17, "width": 20}}),
    "crop": ("CLIP", {"size": SHORT, "crop_size": SQUARE}),
    "odd crop": ("MobileNetV1", {"size": SHORT, "crop_size": {"height": 17, "width": 23}}),
    "margin": ("MobileNetV2", {"size": SHORT, "crop_size": {"height": 31, "width": 30}}),
    "margin and crop": ("Bit", {"size": BROAD, "crop_size": {"height": 31, "width": 20}}),
    "crop without resize": ("CLIP", {"do_resize": False, "crop_size": BROAD}),
    "LeViT's margin": ("Levit", {"size": SHORT, "crop_size": SQUARE}),
    "LeViT's warp": ("Levit", {"size": BROAD, "do_center_crop": False}),
    "crop before": ("Perceiver", {"size": BROAD, "crop_size": {"height": 27, "width": 35}}),
    "margin before": ("Perceiver", {"size": BROAD, "crop_size": {"height": 13, "width": 35}}),
    "divided twice": ("EfficientNet", {"size": SQUARE}),
    "divided once": ("EfficientNet", {"size": SQUARE, "include_top": False}),
    "offset": (
        "EfficientNet",
        {"size": SQUARE, "rescale_factor": 1 / 127.5, "rescale_offset": True},
    ),
    "share of ConvNext": ("ConvNext", {"size": SHORT, "crop_pct": 0.7}),
    "ConvNext's last crop": ("ConvNext", {"size": {"shortest_edge": 383}}),
    "ConvNext's warp": ("ConvNext", {"size": {"shortest_edge": 384}}),
    "ConvNext's margin": ("ConvNext", {"size": SHORT, "crop_pct": 1.3}),
    "share of PoolFormer": ("PoolFormer", {"size": SHORT, "crop_pct": 0.9, "crop_size": SQUARE}),
    "large PoolFormer": ("PoolFormer", {"size": {"shortest_edge": 384}, "crop_size": BROAD}),
    "square PoolFormer": ("PoolFormer", {"size": SQUARE, "crop_size": SQUARE}),
    "red and blue change places": ("MobileViT", {"size": SHORT, "crop_size": SQUARE}),
}
LARGE = {"ConvNext's last crop", "ConvNext's warp", "large PoolFormer"}
BOTH = {"shortest_edge": 24, "longest_edge": 40}
REFUSED = {
    "Lanczos": ("ViT", {"resample": 1}, "expected resample nearest"),
    "box": ("ViT", {"resample": 4}, "expected resample nearest"),
    "Hamming": ("ViT", {"resample": 5}, "expected resample nearest"),
    "both edges": (
        "CLIP",
        {"size": BOTH, "crop_size": SQUARE},
        "got longest_edge, shortest_edge",
    ),
    "longest edge": ("Blip", {"size": {"longest_edge": 40}}, "longest_edge: use"),
    "no crop": ("CLIP", {"do_center_crop": False}, "pixels all have one size"),
    "size_divisor": ("TextNet", {}, "got TextNetImageProcessor"),
    "thumbnail": ("Donut", {}, "got DonutImageProcessor"),
    "patches": ("Siglip2", {}, "got Siglip2ImageProcessor"),
    "no deviation": ("ViT", {"image_std": [0.5, 0.0, 0.5]}, "expected sizes and numbers"),
    "no factor": ("ViT", {"rescale_factor": 0}, "expected sizes and numbers"),
    "NaN": ("ViT", {"image_mean": [float("nan")] * 3}, "expected sizes and numbers"),
    "words": ("ViT", {"image_mean": ["a", "b", "c"]}, "expected sizes and numbers"),
    "a side of 0": ("ViT", {"size": {"height": 0, "width": 4}}, "a side of 0"),
    "a broken side": ("ViT", {"size": {"height": 3.5, "width": 4}}, "a side of 3.5"),
    "a huge side": ("ViT", {"size": {"height": 10**9, "width": 4}}, "a side of 1000000000"),
    "share of 0": ("PoolFormer", {"crop_pct": 0}, "expected sizes and numbers"),
}


def make(kind, options):
    return getattr(transformers, f"{kind}ImageProcessor")(**options)


def pixels_of(processor, picture):
    (pixels,) = processor([picture], return_tensors="np", input_data_format="channels_last")[
        "pixel_values"
    ]
    return np.asarray(pixels, np.float32)


def fused(processor):
    """Return the model that only preprocesses."""
    shape = ["batch", 3, "h", "w"]
    pixels, out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name in ("pixel_values", "out")
    )
    node = helper.make_node("Identity", ["pixel_values"], ["out"])
    graph = helper.make_graph([node], "model", [pixels], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    fuse_preprocessing(model, processor, image_size(processor, (24, 24)))
    return model


@pytest.mark.parametrize("name", BRANCHES)
def test_each_branch_of_the_processors_is_in_the_graph(name, generator):
    processor = make(*BRANCHES[name])
    session = open_graph(fused(processor))
    step, size = np.abs(steps_of(processor).scale).max(), image_size(processor, (24, 24))
    for height, width in SHAPES[-2:] if name in LARGE else SHAPES:
        picture = generator.integers(70, 186, (height, width, 3), dtype=np.uint8)
        expected = pixels_of(processor, picture)
        (made,) = session.run(["out"], {contract.IMAGE: picture[None]})
        assert made[0].shape == expected.shape == (3, *size)
        assert np.abs(made[0] - expected).max() <= MAX_STEPS * step, (height, width)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_graph_cannot_do_is_refused_in_one_line(name):
    kind, options, words = REFUSED[name]
    with pytest.raises(PreprocessingError, match=words) as caught:
        steps_of(make(kind, options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "size"), [("ConvNext", SQUARE), ("ViT", SHORT), ("ImageGPT", 8)])
def test_a_processor_that_prepares_no_picture_is_refused(kind, size):
    processor = make(kind, {"size": size})
    with pytest.raises(PreprocessingError):
        fused(processor)


def test_a_setting_that_a_later_version_reads_is_refused_by_name():
    class ViTImageProcessor(transformers.ViTImageProcessor):
        def preprocess(self, images, do_swirl=None, **more):
            return super().preprocess(images, **more)

        def _preprocess(self, images, do_swirl=None, **more):
            return super()._preprocess(images, **more)

    processor = ViTImageProcessor()
    processor.do_swirl = True
    with pytest.raises(PreprocessingError, match="without do_swirl"):
        steps_of(processor)


def test_a_difference_at_some_shapes_alone_is_found():
    """A crop and a warp agree on squares, whatever the data."""
    crop, warp = make("CLIP", {"size": SHORT, "crop_size": SQUARE}), make("ViT", {"size": SQUARE})
    for name in ("resample", "image_mean", "image_std"):
        setattr(warp, name, getattr(crop, name))
    source = SimpleNamespace(
        processor=warp,
        feeds=lambda raw: {"pixel_values": np.stack([pixels_of(warp, picture) for picture in raw])},
    )
    model, generator = fused(crop), np.random.default_rng(0)
    square, broad = (
        generator.integers(70, 186, (*shape, 3), dtype=np.uint8) for shape in ((40, 40), (40, 60))
    )
    assert verify_shapes(model, source, [square]) <= MAX_STEPS
    with pytest.raises(VerificationError, match="60 x 40 differ: use --preprocessing none"):
        verify_shapes(model, source, [square, broad])
