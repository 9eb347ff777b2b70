"""MobileNetV3-Small (Howard et al. 2019, table 2).

The modules are named as in torchvision's implementation, so that its weights convert by name.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from train.errors import CheckpointError

_STEM, _LAST, _HIDDEN = 16, 576, 1024
_DROPOUT = 0.2
_DIVISOR = 8
_HALVINGS = 5
_SMALL_SIDES = ((64, 2), (128, 1))  # largest side in pixels, halvings left out


@dataclass(frozen=True)
class _Row:
    """One bottleneck of the table: NL is `act` (RE or HS), SE is `squeezes`, s is `stride`."""

    kernel: int
    expanded: int
    outputs: int
    squeezes: bool
    act: type[nn.Module]
    stride: int


_TABLE = (
    _Row(3, 16, 16, True, nn.ReLU, 2),
    _Row(3, 72, 24, False, nn.ReLU, 2),
    _Row(3, 88, 24, False, nn.ReLU, 1),
    _Row(5, 96, 40, True, nn.Hardswish, 2),
    _Row(5, 240, 40, True, nn.Hardswish, 1),
    _Row(5, 240, 40, True, nn.Hardswish, 1),
    _Row(5, 120, 48, True, nn.Hardswish, 1),
    _Row(5, 144, 48, True, nn.Hardswish, 1),
    _Row(5, 288, 96, True, nn.Hardswish, 2),
    _Row(5, 576, 96, True, nn.Hardswish, 1),
    _Row(5, 576, 96, True, nn.Hardswish, 1),
)


class MobileNetV3SmallConfig(PretrainedConfig):
    """Sizes of a MobileNetV3-Small.

    The network halves a picture five times: 224 pixels end as 7, but 32 would end as 1. Without the
    first two halvings, 32 end as 4.

    Args:
        image_size: (height, width) in pixels.
        channels: Colour channels.
        skipped_halvings: Number of the five stride-2 convolutions, from the first, that keep the
            size; by default 2 for a shorter side of up to 64 pixels, 1 up to 128, else 0 (as in the
            paper). It changes no weight's shape.
    """

    model_type = "gatekeeper-mobilenet-v3-small"

    def __init__(
        self,
        image_size: tuple[int, int] = (224, 224),
        channels: int = 3,
        skipped_halvings: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.image_size = list(image_size)
        self.channels = channels
        if skipped_halvings is None:
            skipped_halvings = _default_skips(min(image_size))
        if not 0 <= skipped_halvings <= _HALVINGS:
            raise CheckpointError(
                f"expected skipped_halvings from 0 to {_HALVINGS}, got {skipped_halvings}"
            )
        self.skipped_halvings = skipped_halvings
        super().__init__(**kwargs)


class MobileNetV3Small(PreTrainedModel):
    """Stem, eleven inverted bottlenecks, a 1x1 convolution, average pool, two linear layers."""

    config_class = MobileNetV3SmallConfig
    main_input_name = "pixel_values"

    def __init__(self, config: MobileNetV3SmallConfig) -> None:
        super().__init__(config)
        stem, *strides = _strides(config.skipped_halvings)
        widths = [_STEM, *(row.outputs for row in _TABLE)]
        self.features = nn.Sequential(
            _convolution(config.channels, _STEM, 3, act=nn.Hardswish, stride=stem),
            *(
                InvertedBottleneck(width, row, stride)
                for width, row, stride in zip(widths[:-1], _TABLE, strides, strict=True)
            ),
            _convolution(widths[-1], _LAST, 1, act=nn.Hardswish),
        )
        self.classifier = nn.Sequential(
            nn.Linear(_LAST, _HIDDEN),
            nn.Hardswish(),
            nn.Dropout(_DROPOUT),
            nn.Linear(_HIDDEN, config.num_labels),
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any
    ) -> ImageClassifierOutputWithNoAttention:
        """Return logits [N, classes] for pixel_values float [N, channels, height, width]."""
        logits = self.classifier(self.features(pixel_values).mean(dim=(2, 3)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise convolution, squeeze-and-excite, linear 1x1 projection."""

    def __init__(self, inputs: int, row: _Row, stride: int) -> None:
        super().__init__()
        expanded = row.expanded
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(_convolution(inputs, expanded, 1, act=row.act))
        layers.append(
            _convolution(
                expanded, expanded, row.kernel, act=row.act, stride=stride, groups=expanded
            )
        )
        if row.squeezes:
            layers.append(SqueezeExcite(expanded))
        layers.append(_convolution(expanded, row.outputs, 1))
        self.block = nn.Sequential(*layers)
        # The table's stride decides, not the actual one: a skipped halving gains no shortcut.
        self.has_shortcut = row.stride == 1 and inputs == row.outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return float [N, outputs, height / stride, width / stride]."""
        y: Tensor = self.block(x)
        return x + y if self.has_shortcut else y


class SqueezeExcite(nn.Module):
    """Weighs each channel by a hard sigmoid of the means of all, with a quarter of them inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = make_divisible(channels // 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return float [N, channels, height, width]."""
        inside = nn.functional.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))
        return x * nn.functional.hardsigmoid(self.fc2(inside))


def make_divisible(channels: float, divisor: int = _DIVISOR) -> int:
    """Return the nearest multiple of `divisor`, at least `divisor` and 90 % of `channels`."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


def _convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    act: type[nn.Module] | None = None,
    stride: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3),
    ]
    return nn.Sequential(*layers, *([] if act is None else [act()]))


def _default_skips(side: int) -> int:
    return next((skips for limit, skips in _SMALL_SIDES if side <= limit), 0)


def _strides(skipped: int) -> list[int]:
    """Return the strides of the stem and of each bottleneck."""
    strides = [2, *(row.stride for row in _TABLE)]
    halvings = list(itertools.accumulate(stride > 1 for stride in strides))
    return [1 if nth <= skipped else stride for nth, stride in zip(halvings, strides, strict=True)]
