"""The architectures of the paper, against their published sizes and independent implementations."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification
from transformers.models.resnet.modeling_resnet import ResNetBottleNeckLayer

from train.classifier.convert import convert
from train.errors import CheckpointError
from train.models import (
    MobileNetV3Small,
    MobileNetV3SmallConfig,
    Normalisation,
    SmallResNetConfig,
    build,
    open_checkpoint,
    save,
)
from train.models.mobilenet_v3 import make_divisible
from train.models.small_resnet import Bottleneck

LETTERS = list("abcde")
IMAGENET = [str(i) for i in range(1000)]
# torchvision's documented counts, for 1000 classes. Its ResNets have a 7x7 stem, ours a 3x3 one.
STEM = 64 * 3 * (49 - 9)
PARAMETERS = {
    "mobilenetv3-small": 2_542_856,
    "resnet-18": 11_689_512 - STEM,
    "resnet-50": 25_557_032 - STEM,
}
# What torchvision 0.29.1's own code answers in float64 with the weights and the picture of `wave`
# (its resnet50 with the stem replaced by a 3x3 convolution and without the max pool).
TORCHVISION = {
    ("mobilenetv3-small", 224): [-89.06991, 93.07383, 31.72067, -112.4283, 38.64223],
    ("resnet-50", 32): [-309.4571, 1678.729, -2392.579, 2169.444, -1097.821],
}
# Theirs for ours, the other way round than `train.classifier.convert` does it.
THEIRS = (("stem.", "conv1."), ("norm.", "bn1."), ("classifier.", "fc."))


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_model_has_the_published_number_of_parameters(name):
    model = build(name, labels=IMAGENET, image_size=(64, 64)).model
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_the_7x7_stem_is_all_that_differs_from_transformers_resnet_50():
    with torch.device("meta"):
        theirs = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    assert sum(p.numel() for p in theirs.parameters()) == PARAMETERS["resnet-50"] + STEM


def layer_shapes(model, side):
    """Return (channels, side) after the stem and each layer."""
    shapes, x = [], torch.zeros(1, 3, side, side)
    for layer in model.features:
        x = layer(x)
        shapes.append(tuple(x.shape[1:3]))
    return shapes


def test_mobilenet_v3_small_has_the_tables_layers():
    model = build("mobilenetv3-small", labels=LETTERS, image_size=(224, 224)).model
    # Howard et al. 2019, table 2: the "input" of the next row.
    assert layer_shapes(model, 224) == [
        (16, 112),
        (16, 56),
        *[(24, 28)] * 2,
        *[(40, 14)] * 3,
        *[(48, 14)] * 2,
        *[(96, 7)] * 3,
        (576, 7),
    ]
    assert [type(layer) for layer in model.classifier[:3]] == [nn.Linear, nn.Hardswish, nn.Dropout]
    assert (model.classifier[0].out_features, model.classifier[2].p) == (1024, 0.2)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.001, 0.1)}


@pytest.mark.parametrize(
    ("side", "last"), [(8, 1), (32, 4), (64, 8), (96, 6), (128, 8), (160, 5), (224, 7)]
)
def test_mobilenet_v3_small_leaves_small_pictures_some_pixels(side, last):
    model = build("mobilenetv3-small", labels=LETTERS, image_size=(side, side)).model
    assert layer_shapes(model, side)[-1] == (576, last)
    assert model(pixel_values=torch.zeros(2, 3, side, side)).logits.shape == (2, 5)


def test_halvings_are_left_out_from_the_first():
    config = MobileNetV3SmallConfig(image_size=(224, 224), skipped_halvings=2, num_labels=2)
    with torch.device("meta"):
        model = MobileNetV3Small(config)
    strides = [
        m.stride[0] for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size > (1, 1)
    ]
    assert strides == [1, 1, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1]


@pytest.mark.parametrize("skipped", [-1, 6])
def test_halvings_that_are_not_there_cannot_be_left_out(skipped):
    with pytest.raises(CheckpointError, match="from 0 to 5"):
        MobileNetV3SmallConfig(skipped_halvings=skipped)


@pytest.mark.parametrize(
    ("channels", "divisible"), [(4, 8), (18, 24), (24, 24), (28, 32), (60, 64), (30, 32), (99, 96)]
)
def test_channels_are_rounded_but_not_under_nine_tenths(channels, divisible):
    # 18 would round down to 16, which is under 16.2; 28 lies between and goes up
    assert make_divisible(channels) == divisible


@pytest.mark.parametrize(("inputs", "stride"), [(64, 1), (256, 1), (128, 2)])
def test_a_bottleneck_is_transformers_own(inputs, stride):
    torch.manual_seed(0)
    theirs = ResNetBottleNeckLayer(inputs, 256, stride=stride).double().eval()
    ours = Bottleneck(inputs, 64, stride, "projection").double().eval()
    # Both list convolution, then norm; theirs begins with the shortcut, ours ends with it.
    values = list(theirs.state_dict().values())
    shortcut = 6 if inputs != 256 or stride != 1 else 0
    values = [*values[shortcut:], *values[:shortcut]]
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    x = torch.randn(2, inputs, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_an_unknown_block_is_refused():
    with pytest.raises(CheckpointError, match="basic or bottleneck, got 'wide'"):
        SmallResNetConfig(block="wide")


def wave(shape, phase=0):
    return torch.sin(0.37 * torch.arange(math.prod(shape), dtype=torch.float64) + phase).reshape(
        shape
    )


def their_name(name, depths):
    """Return torchvision's name of one of our weights."""
    block = re.match(r"blocks\.(\d+)\.(.*)", name)
    if not block:
        return next((b + name[len(a) :] for a, b in THEIRS if name.startswith(a)), name)
    stage, index = 0, int(block[1])
    while index >= depths[stage]:
        index -= depths[stage]
        stage += 1
    rest = re.sub(r"^norm(\d)", r"bn\1", block[2]).replace("shortcut", "downsample")
    return f"layer{stage + 1}.{index}.{rest}"


def wavy_weights(name, side):
    """Return weights with torchvision's names: waves, scaled so that they stay finite."""
    model = build(name, labels=LETTERS, image_size=(side, side)).model
    depths = getattr(model.config, "depths", ())
    shapes = {their_name(k, depths): v.shape for k, v in model.state_dict().items()}
    names = sorted(k for k in shapes if not k.endswith("num_batches_tracked"))
    weights = {}
    for phase, key in enumerate(names):
        values = wave(shapes[key], phase)
        if key.endswith("running_var"):
            values = 1 + values / 2
        elif values.ndim == 1:
            values = values / 2 + key.endswith(".weight")
        else:
            values = values * math.sqrt(3 / values[0].numel())
        weights[key] = values.float()
    return weights


@pytest.mark.parametrize(("name", "side"), TORCHVISION)
def test_torchvisions_weights_convert_and_answer_as_there(name, side, tmp_path):
    torch.save(wavy_weights(name, side), tmp_path / "weights.pth")
    converted = convert(
        tmp_path / "weights.pth",
        name,
        labels=LETTERS,
        image_size=(side, side),
        normalisation=Normalisation(),
    )
    count = torch.arange(3 * side * side, dtype=torch.float64)
    picture = torch.cos(0.11 * count).reshape(1, 3, side, side).float().double()
    with torch.no_grad():
        logits = converted.model.double()(pixel_values=picture).logits[0]
    np.testing.assert_allclose(logits.numpy(), TORCHVISION[name, side], rtol=1e-6)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_checkpoint_opens_with_the_same_weights_and_answers(name, pictures, tmp_path):
    built = build(name, labels=LETTERS, image_size=(8, 8), seed=3)
    save(built, tmp_path / "model")
    opened = open_checkpoint(tmp_path / "model")
    weights = opened.model.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in built.model.state_dict().items())
    ours, wanted = (checkpoint.predict(pictures[:4]) for checkpoint in (opened, built))
    np.testing.assert_allclose(ours, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenetv3-small", "resnet-50"])
def test_one_step_of_training_reaches_every_weight(name):
    model = build(name, labels=LETTERS, image_size=(32, 32)).model.train()
    torch.manual_seed(0)
    output = model(pixel_values=torch.randn(8, 3, 32, 32), labels=torch.arange(8) % 5)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_small_cnn_has_the_papers_size():
    # 3*16*9+16 + 2*16  +  16*32*9+32 + 2*32  +  2048*64+64  +  64*10+10
    model = build("small-cnn", labels=list("0123456789"), image_size=(32, 32)).model
    assert sum(p.numel() for p in model.parameters()) == 136_970
    assert model.classifier[1].in_features == 2048


def test_resnet_20_keeps_its_size_for_small_pictures():
    model = build("resnet-20", labels=list("0123456789"), image_size=(8, 8)).model
    assert model(pixel_values=torch.zeros(2, 3, 8, 8)).logits.shape == (2, 10)
    # He et al. 2016, table 6: 0.27 M
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(0.27e6, rel=0.01)
