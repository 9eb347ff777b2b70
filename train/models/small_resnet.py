"""Residual networks for small images: a 3x3 stem without pooling (He et al. 2016, section 4.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from train.errors import CheckpointError


class SmallResNetConfig(PretrainedConfig):
    """Sizes of a SmallResNet.

    Args:
        image_size: (height, width) in pixels.
        channels: Colour channels.
        widths: Channels of each stage; every stage but the first halves the picture.
        depths: Blocks of each stage.
        shortcut: `pad` (option A: subsample and add zero channels) or `projection` (option B: 1x1
            convolution) where a block changes the size.
        block: `basic` (two 3x3 convolutions) or `bottleneck` (1x1, 3x3, and 1x1 to four times the
            stage's channels).
    """

    model_type = "gatekeeper-small-resnet"

    def __init__(
        self,
        image_size: tuple[int, int] = (32, 32),
        channels: int = 3,
        widths: tuple[int, ...] = (16, 32, 64),
        depths: tuple[int, ...] = (3, 3, 3),
        shortcut: str = "pad",
        block: str = "basic",
        **kwargs: Any,
    ) -> None:
        if block not in BLOCKS:
            raise CheckpointError(f"expected block to be {' or '.join(BLOCKS)}, got '{block}'")
        self.image_size = list(image_size)
        self.channels = channels
        self.widths = list(widths)
        self.depths = list(depths)
        self.shortcut = shortcut
        self.block = block
        super().__init__(**kwargs)


class SmallResNet(PreTrainedModel):
    """Stem, stages of blocks, global average pool, one linear layer."""

    config_class = SmallResNetConfig
    main_input_name = "pixel_values"

    def __init__(self, config: SmallResNetConfig) -> None:
        super().__init__(config)
        first = config.widths[0]
        self.stem = nn.Conv2d(config.channels, first, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(first)
        kind = BLOCKS[config.block]
        blocks: list[nn.Module] = []
        width = first
        for stage, (inner, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(kind(width, inner, stride, config.shortcut))
                width = inner * kind.expansion
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any
    ) -> ImageClassifierOutputWithNoAttention:
        """Return logits [N, classes] for pixel_values float [N, channels, height, width]."""
        x = self.blocks(torch.relu(self.norm(self.stem(pixel_values))))
        logits = self.classifier(x.mean(dim=(2, 3)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(shortcut, inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return float [N, outputs, height / stride, width / stride]."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1 to `inner` channels, 3x3, 1x1 to four times as many, and a shortcut.

    The 3x3 convolution has the stride, as in torchvision ("version 1.5", about half a point better
    on ImageNet) and unlike the paper, whose first 1x1 drops three pixels of four.
    """

    expansion = 4

    def __init__(self, inputs: int, inner: int, stride: int, shortcut: str) -> None:
        super().__init__()
        outputs = inner * self.expansion
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(shortcut, inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return float [N, 4 * inner, height / stride, width / stride]."""
        y = torch.relu(self.norm1(self.conv1(x)))
        y = torch.relu(self.norm2(self.conv2(y)))
        return torch.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


BLOCKS: dict[str, type[BasicBlock | Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}
"""Blocks by their name in `SmallResNetConfig.block`."""


def _shortcut(kind: str, inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    shortcut = PadShortcut if kind == "pad" else ProjectionShortcut
    return shortcut(inputs, outputs, stride)


class PadShortcut(nn.Module):
    """Option A: every stride-th pixel; new channels are zero, half of them on each side."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Return float [N, outputs, height / stride, width / stride]."""
        x = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(x, (0, 0, 0, 0, self.before, self.after))


class ProjectionShortcut(nn.Sequential):
    """Option B: a strided 1x1 convolution and batch norm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
