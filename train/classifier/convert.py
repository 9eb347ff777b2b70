"""Converts weight files from elsewhere to checkpoints: a state dict and an architecture's name."""

from __future__ import annotations

import itertools
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train import data
from train.classifier.settings import ConvertSettings
from train.errors import CheckpointError
from train.models import Checkpoint, Normalisation, build, save
from train.training.output import explain_full_disk, refuse_existing, settings_record

_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
_PREFIX = "module."  # added by DataParallel
_STAGE = re.compile(r"^layer(\d+)\.(\d+)\.")
# From the names of torchvision's ResNets, and of most CIFAR repositories, to ours.
_RENAMED = (
    (re.compile(r"^conv1\."), "stem."),
    (re.compile(r"^bn1\."), "norm."),
    (re.compile(r"^(linear|fc)\."), "classifier."),
    (re.compile(r"\.bn(\d)\."), r".norm\1."),
    (re.compile(r"\.downsample\."), ".shortcut."),
)
_COUNTER = ".num_batches_tracked"


def convert_weights(settings: ConvertSettings) -> None:
    """Convert a weight file as the settings say, and write the checkpoint."""
    refuse_existing(settings.out, overwrite=settings.overwrite)
    labels = data.load(settings.data).label_names if settings.data else settings.labels
    checkpoint = convert(
        settings.weights,
        settings.model,
        labels=labels,
        image_size=(settings.image_size, settings.image_size),
        normalisation=Normalisation(settings.image_mean, settings.image_std),
    )
    with explain_full_disk(settings.out.parent, " and rerun"):
        save(checkpoint, settings.out, extra=settings_record("convert", settings))
    print(f"{settings.out}: {settings.model} with {len(labels)} labels", flush=True)


def convert(
    weights: Path,
    model: str,
    *,
    labels: Sequence[str],
    image_size: tuple[int, int],
    normalisation: Normalisation,
) -> Checkpoint:
    """Return the architecture `model` with the weights of a file.

    Args:
        weights: A `.safetensors` file, or a torch file with a state dict; none of its code is run.
        model: One of `train.models.NAMES`.
        labels: Class names in the order of the logits.
        image_size: (height, width) of the model's input in pixels.
        normalisation: Mean and deviation that the weights were trained with.

    Raises:
        CheckpointError: The file is missing, damaged or holds objects; or the weights belong to
            another architecture or another number of labels.
    """
    checkpoint = build(model, labels=labels, image_size=image_size, normalisation=normalisation)
    depths = getattr(checkpoint.model.config, "depths", ())
    renamed = {_our_name(name, depths): value for name, value in _read(weights).items()}
    wanted = checkpoint.model.state_dict()
    _require_match(renamed, wanted, f"{weights} as {model} with {len(labels)} labels")
    checkpoint.model.load_state_dict(renamed, strict=False)
    return checkpoint


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"expected a file of weights, nothing is at {path}")
    try:
        content = _load(path)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"expected a state dict of plain tensors in {path}, it is damaged or holds objects, "
            "which can run code when loaded: save only its state_dict()"
        ) from None
    except Exception as error:  # noqa: BLE001 - torch and safetensors raise many unrelated classes
        reason = str(error).strip().split("\n")[0][:160] or "it ends too early"
        raise CheckpointError(
            f"expected a state dict of plain tensors in {path}, it does not open: {reason}"
        ) from None
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"expected a state dict in {path}, got a {type(content).__name__}")
    return {k.removeprefix(_PREFIX): v for k, v in content.items() if isinstance(v, Tensor)}


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _our_name(name: str, depths: Sequence[int]) -> str:
    stage = _STAGE.match(name)
    if stage:
        # Their blocks are numbered per stage, ours through the network.
        first = [0, *itertools.accumulate(depths)]
        index = int(stage[1]) - 1
        if index < len(depths) and int(stage[2]) < depths[index]:
            name = f"blocks.{first[index] + int(stage[2])}.{name[stage.end() :]}"
    for pattern, ours in _RENAMED:
        name = pattern.sub(ours, name)
    return name


def _require_match(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    missing = [k for k in wanted if k not in found and not k.endswith(_COUNTER)]
    extra = [k for k in found if k not in wanted]
    shapes = [
        f"{k} is {list(found[k].shape)}, not {list(wanted[k].shape)}"
        for k in wanted
        if k in found and found[k].shape != wanted[k].shape
    ]
    for kind, names in (("missing", missing), ("unknown", extra), ("of another shape", shapes)):
        if names:
            raise CheckpointError(
                f"expected {what}: {len(names)} weights are {kind}, e.g. {names[0]}; check --model "
                "and the number of labels"
            )
