"""The paper's SmallCNN (Rabanser et al. 2025, appendix C.1)."""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from train.errors import CheckpointError


class SmallCNNConfig(PretrainedConfig):
    """Sizes of a SmallCNN.

    Args:
        image_size: (height, width) in pixels, each at least 4.
        channels: Colour channels.
        widths: Channels of the two convolution blocks.
        hidden: Width of the layer between features and classes.
    """

    model_type = "gatekeeper-small-cnn"

    def __init__(
        self,
        image_size: tuple[int, int] = (32, 32),
        channels: int = 3,
        widths: tuple[int, ...] = (16, 32),
        hidden: int = 64,
        **kwargs: Any,
    ) -> None:
        self.image_size = list(image_size)
        self.channels = channels
        self.widths = list(widths)
        self.hidden = hidden
        super().__init__(**kwargs)


class SmallCNN(PreTrainedModel):
    """Blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pool, then two linear layers."""

    config_class = SmallCNNConfig
    main_input_name = "pixel_values"

    def __init__(self, config: SmallCNNConfig) -> None:
        super().__init__(config)
        widths = [config.channels, *config.widths]
        self.features = nn.Sequential(*(_block(a, b) for a, b in itertools.pairwise(widths)))
        shrink = 2 ** len(config.widths)
        height, width = (size // shrink for size in config.image_size)
        if min(height, width) < 1:
            raise CheckpointError(
                f"expected pictures of at least {shrink} x {shrink} pixels for SmallCNN, got "
                f"{config.image_size}: set a larger --image-size"
            )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(widths[-1] * height * width, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.num_labels),
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep torch's own initialisation of the layers."""

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any
    ) -> ImageClassifierOutputWithNoAttention:
        """Return logits [N, classes] for pixel_values float [N, channels, height, width]."""
        logits = self.classifier(self.features(pixel_values))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
