"""Builds untrained models by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, ViTImageProcessor

from edge_runtime.files import one_line
from edge_runtime.names import what_is
from train.errors import CheckpointError
from train.models.channels import open_channels
from train.models.checkpoint import Checkpoint
from train.models.files import check_config, check_files, require_fitting
from train.models.kinds import SAFE, Family, family_of, open_processor
from train.models.mobilenet_v3 import MobileNetV3Small, MobileNetV3SmallConfig
from train.models.small_cnn import SmallCNN, SmallCNNConfig
from train.models.small_resnet import SmallResNet, SmallResNetConfig

_WIDE: dict[str, Any] = {"widths": (64, 128, 256, 512), "shortcut": "projection"}
_RESNETS: dict[str, dict[str, Any]] = {
    "resnet-20": {"depths": (3, 3, 3)},
    "resnet-32": {"depths": (5, 5, 5)},
    "resnet-56": {"depths": (9, 9, 9)},
    "resnet-18": {**_WIDE, "depths": (2, 2, 2, 2)},
    "resnet-50": {**_WIDE, "depths": (3, 4, 6, 3), "block": "bottleneck"},
}
NAMES = ("small-cnn", *_RESNETS, "mobilenetv3-small")
"""Architectures that `build` knows by name."""


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel in [0, 1]: x becomes (x - mean) / std."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


def build(
    name: str,
    *,
    labels: Sequence[str],
    image_size: tuple[int, int] = (32, 32),
    normalisation: Normalisation = Normalisation(),
    seed: int = 0,
) -> Checkpoint:
    """Return a classifier to train.

    Args:
        name: One of `NAMES`, or a folder with the `config.json` of a transformers classifier of
            pictures or (with its tokenizer) texts; its weights are kept, except for the head.
        labels: Class names in the order of the logits.
        image_size: (height, width) of the model's input in pixels.
        normalisation: Mean and deviation of the channels.
        seed: Seed of the weights.

    Raises:
        CheckpointError: The name is neither, or the input is too small for the model.
    """
    names: dict[str, Any] = {"num_labels": len(labels), "id2label": dict(enumerate(labels))}
    names["label2id"] = {label: i for i, label in enumerate(labels)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name == "small-cnn":
            model: Any = SmallCNN(SmallCNNConfig(image_size=image_size, **names))
        elif name == "mobilenetv3-small":
            model = MobileNetV3Small(MobileNetV3SmallConfig(image_size=image_size, **names))
        elif name in _RESNETS:
            model = SmallResNet(SmallResNetConfig(image_size=image_size, **_RESNETS[name], **names))
        else:
            return _foreign(Path(name), names, image_size, normalisation)
    processor = _processor(image_size, normalisation)
    return Checkpoint(model.eval(), processor, tuple(labels), None)


def is_pretrained(name: str) -> bool:
    """Return whether `build` starts from the weights of a folder."""
    return any(Path(name).glob("*.safetensors"))


def has_attention(model: torch.nn.Module) -> bool:
    """Return whether a model is a transformer, which high learning rates ruin."""
    return any("attention" in type(module).__name__.lower() for module in model.modules())


def _processor(image_size: tuple[int, int], normalisation: Normalisation) -> Any:
    height, width = image_size
    # If torchvision is installed, transformers 5 gives the plain name to a processor that uses it,
    # and a checkpoint would be trained with another resizing than it is opened with.
    processor = getattr(transformers, "ViTImageProcessorPil", ViTImageProcessor)
    return processor(
        size={"height": height, "width": width},
        image_mean=list(normalisation.mean),
        image_std=list(normalisation.std),
    )


def _foreign(
    path: Path,
    names: dict[str, Any],
    image_size: tuple[int, int],
    normalisation: Normalisation,
) -> Checkpoint:
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"expected one of {', '.join(NAMES)} or a folder with a config.json, got '{path}': "
            f"there is {what_is(path)}"
        )
    # The folder's own type may be another one, as of a model of several labels an input.
    names = {**names, "problem_type": "single_label_classification"}
    check_config(path)
    try:
        family = family_of(path)
        model = _model(family, path, names)
        if family.kind == "text" or (path / "preprocessor_config.json").is_file():
            processor = open_processor(family, path, model)
        else:
            processor = _processor(_own_size(model.config, image_size), normalisation)
        if family.kind == "image":
            open_channels(model, processor, path)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - transformers raises many unrelated classes
        raise CheckpointError(
            f"expected a classifier's config.json in {path}, it does not build: "
            f"{one_line(error, 200)}"
        ) from None
    return Checkpoint(model.eval(), processor, tuple(names["id2label"].values()), None, family.kind)


def _model(family: Family, path: Path, names: dict[str, Any]) -> Any:
    config = AutoConfig.from_pretrained(path, **SAFE, **names)
    has_weights = is_pretrained(str(path))
    if has_weights:
        check_files(path)
    require_fitting(family.auto_model, config, path)
    if has_weights:
        return family.auto_model.from_pretrained(
            path, use_safetensors=True, ignore_mismatched_sizes=True, **SAFE, **names
        )
    return family.auto_model.from_config(config, trust_remote_code=False)


def _own_size(config: Any, wanted: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) that a configuration prescribes, else the wanted size."""
    size = getattr(config, "image_size", None)
    if size is None:
        return wanted
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)
