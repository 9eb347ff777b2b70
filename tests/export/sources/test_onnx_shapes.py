"""ONNX classifiers with other inputs and outputs: channels last, bytes, rank 4, classes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tools.decisions import assert_decides_like
from tools.foreign_models import cast_in_front, rewrite, show, with_channels_last
from transformers import CLIPImageProcessor, ViTImageProcessor

from edge_runtime import Cascade, SettingError
from edge_runtime.edge_model import EdgeModel
from export.commands.retune import RetuneSettings
from export.commands.verify import VerifySettings


@pytest.fixture
def nhwc(model, tmp_path):
    """Takes float32 [N, 8, 8, 3], as tf2onnx writes it."""
    return rewrite(model, tmp_path / "nhwc.onnx", with_channels_last)


@pytest.fixture
def processor(tmp_path):
    """Write a processor with the given settings."""

    def write(**settings):
        ViTImageProcessor(**settings).save_pretrained(tmp_path / "processor")
        return tmp_path / "processor"

    return write


SMALL = {"size": {"height": 8, "width": 8}}
BYTES = {"do_rescale": False, "do_normalize": False}


def as_bytes(proto):
    with_channels_last(proto)
    cast_in_front(proto, "bytes", TensorProto.UINT8)


def test_channels_last_are_fused(nhwc, export, pixels, digits):
    bundle = export(nhwc)
    assert_decides_like(bundle, nhwc, pixels.transpose(0, 2, 3, 1), digits)
    RetuneSettings(bundle=bundle, calibrate="digits", target_deferral=0.1).run()
    VerifySettings(bundle=bundle, data="digits").run()


def test_channels_last_are_left_as_they_are_where_nothing_is_resized(
    nhwc, export, processor, digits
):
    bundle = export(nhwc, processor=processor(do_resize=False))
    assert_decides_like(bundle, nhwc, ((digits / 255 - 0.5) / 0.5).astype(np.float32), digits)
    operators = [node.op_type for node in onnx.load(bundle / "model.onnx").graph.node]
    assert operators.count("Transpose") == 1  # the model's own


def test_a_processor_that_crops_decides_the_same_for_either_order(model, nhwc, export, tmp_path):
    processor = CLIPImageProcessor(size={"shortest_edge": 9}, crop_size=SMALL["size"])
    processor.save_pretrained(tmp_path / "processor")
    large = np.random.default_rng(0).integers(0, 256, (20, 24, 16, 3), np.uint8)
    found = {}
    for path in (model, nhwc):
        bundle = export(path, processor=tmp_path / "processor", overwrite=True)
        found[path] = EdgeModel.open(bundle)(large).confidence
    np.testing.assert_allclose(found[nhwc], found[model], atol=1e-6)


@pytest.mark.parametrize("fused", ["fused", "none"])
def test_a_second_look_mirrors_the_width_of_either_order(
    fused, model, nhwc, export, digits, pixels
):
    found = {}
    for path in (model, nhwc):
        bundle = export(path, second_look="mirror", band=1, preprocessing=fused, overwrite=True)
        given = digits if fused == "fused" else pixels
        if fused == "none" and path == nhwc:
            given = np.ascontiguousarray(given.transpose(0, 2, 3, 1))
        found[path] = EdgeModel.open(bundle)(given)
    np.testing.assert_array_equal(found[nhwc].defer, found[model].defer)
    np.testing.assert_allclose(found[nhwc].confidence, found[model].confidence, atol=1e-6)


def test_it_is_quantized(nhwc, export, digits):
    gated = EdgeModel.open(export(nhwc, quantize="int8", max_flips=1))(digits)
    assert 0.1 < gated.defer.mean() < 0.5


def test_without_a_processor_it_takes_what_the_model_takes(nhwc, export, without_data, pixels):
    opened = EdgeModel.open(export(nhwc, **without_data))
    assert opened.metadata.input.shape == ("batch", 8, 8, 3)
    assert opened(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))).defer.shape == (len(pixels),)


def test_prepared_pictures_are_no_originals_to_forward(model, export, without_data):
    bundle = export(model, **without_data)
    with pytest.raises(SettingError, match="no original picture to forward"):
        Cascade.open(bundle, cloud="localhost:1")
    Cascade.open(bundle, cloud="localhost:1", forward="model_input").close()


def test_bytes_are_taken_as_they_are(model, export, without_data, processor, digits, tmp_path):
    path = rewrite(model, tmp_path / "bytes.onnx", as_bytes)
    alone = export(path, **without_data)
    assert EdgeModel.open(alone).metadata.input.dtype == "uint8"
    assert_decides_like(alone, path, digits, digits)
    RetuneSettings(bundle=alone, calibrate="digits", target_deferral=0.1).run()
    small = export(path, processor=processor(do_resize=False, **BYTES), overwrite=True)
    assert_decides_like(small, path, digits, digits)
    resized = export(path, processor=processor(**SMALL, **BYTES), overwrite=True)
    assert EdgeModel.open(resized).metadata.input.shape == ("batch", "height", "width", 3)
    assert_decides_like(resized, path, digits, digits)
    large = digits.repeat(2, axis=1).repeat(2, axis=2)
    prediction = EdgeModel.open(resized)(large).prediction
    assert (prediction == EdgeModel.open(small)(digits).prediction).mean() > 0.9


def test_a_processor_of_numbers_is_refused_for_bytes(model, refused, tmp_path):
    path = rewrite(model, tmp_path / "bytes.onnx", as_bytes)
    refused(path, "leaves pictures uint8, as bytes .* do_rescale and do_normalize: set them to")


@pytest.mark.parametrize("shape", [(10, 1, 1), (1, 1, 10)])
@pytest.mark.parametrize("is_named", [True, False])
def test_logits_of_one_pixel_are_taken(
    shape, is_named, model, export, refused, pixels, digits, tmp_path
):
    def unflatten(proto):
        (old,) = proto.graph.output
        size = onnx.numpy_helper.from_array(np.array([-1, *shape]), "one_pixel")
        proto.graph.initializer.append(size)
        proto.graph.node.append(helper.make_node("Reshape", [old.name, "one_pixel"], ["map"]))
        proto.graph.output.remove(old)
        show(proto, "map", shape=("N", *shape))

    path = rewrite(model, tmp_path / "map.onnx", unflatten)
    bundle = export(path, logits="map" if is_named else None, emit="logits")
    assert_decides_like(bundle, path, pixels, digits, output="map")
    (emitted,) = EdgeModel.open(bundle).session.run(["logits"], {"image": digits})
    assert emitted.shape == (len(digits), 10)


def test_logits_of_many_pixels_are_refused(model, refused, tmp_path):
    inner = next(n.output[0] for n in onnx.load(model).graph.node if n.op_type == "Conv")
    refused(model, r"16, 8, 8\] is a map of each class .* a model of \[batch", logits=inner)


def with_classes_only(proto):
    proto.graph.node.append(helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0))
    del proto.graph.output[:]
    show(proto, "label", TensorProto.INT64, ("N",))


def test_a_model_that_gives_only_classes_is_refused_and_the_logits_named(
    model, export, refused, pixels, digits, tmp_path
):
    path = rewrite(model, tmp_path / "classes.onnx", with_classes_only)
    says = r"got none among label tensor\(int64\).*: name a value .* with --logits scores"
    refused(path, says)
    assert_decides_like(export(path, logits="scores"), model, pixels, digits)


@pytest.mark.parametrize("element", [TensorProto.INT64, TensorProto.UINT8])
def test_logits_of_another_type_are_refused(element, model, refused, tmp_path):
    def cast(proto):
        proto.graph.node.append(helper.make_node("Cast", ["scores"], ["cast"], to=element))
        show(proto, "cast", element)

    path = rewrite(model, tmp_path / "cast.onnx", cast)
    refused(
        path, r"expected float logits in .* 'cast' is tensor\(.*\): name another", logits="cast"
    )


def test_a_free_axis_of_minus_one_is_free(model, export, pixels, digits, tmp_path):
    def free(proto):
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1

    path = rewrite(model, tmp_path / "paddle.onnx", free)
    assert_decides_like(export(path), model, pixels, digits)
