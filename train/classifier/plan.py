"""Chooses what a training leaves open: the model, the size of its input and its learning rate."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TypeVar

import numpy as np

from edge_runtime.reading import read_json
from train.classifier.settings import AUTO, FitSettings
from train.data import LabelledData
from train.errors import DataError
from train.models import FILE, Checkpoint, has_attention, is_pretrained

_SIDES = (32, 64, 96, 128, 160)
_LARGEST_OWN = 224  # a set of pictures of one size up to this keeps it
_SHARE = 0.25  # of the pictures may have a shorter side below the input's
_SAMPLED = 64
_PHOTOGRAPH = 64  # shorter side in pixels from which pictures hold more than a SmallCNN sees
_RATES = {  # (pretrained, with attention) -> peak learning rate of AdamW
    (False, False): 3e-3,
    (False, True): 1e-3,
    (True, False): 3e-4,
    (True, True): 5e-5,
}
_TUNING = 0.5  # part of the rate of the fit
_Settings = TypeVar("_Settings", bound=FitSettings)


def input_size(data: LabelledData) -> tuple[int, int]:
    """Return the (height, width) in pixels at which a model fits the pictures of a split.

    Small pictures of one size keep it. Else it is a square: the largest of 32, 64, 96, 128 and 160
    that at most a quarter of the pictures have to be enlarged for. More rarely helps a model that
    starts from random weights, and a step at 224 takes twice as long as at 160.
    """
    step = math.ceil(len(data) / _SAMPLED)
    shapes = [data.inputs[i].shape[:2] for i in range(0, len(data), step)]
    if len(set(shapes)) == 1 and max(shapes[0]) <= _LARGEST_OWN:
        return shapes[0]
    shorter = float(np.quantile([min(shape) for shape in shapes], _SHARE))
    side = max((side for side in _SIDES if side <= shorter), default=_SIDES[0])
    return side, side


def choose_model(settings: FitSettings, train: LabelledData) -> tuple[str, tuple[int, int]]:
    """Return (architecture or folder, (height, width) of its input) for a training split.

    Raises:
        DataError: There is no default for texts.
    """
    size = (settings.image_size or 1,) * 2
    if train.kind == "image" and not settings.image_size:
        size = input_size(train)
    if settings.model != AUTO:
        return settings.model, size
    if train.kind != "image":
        raise DataError(
            f"expected --model with the folder of a text classifier, got auto: {settings.data} "
            f"holds {train.kind}s"
        )
    return ("small-cnn" if min(size) < _PHOTOGRAPH else "mobilenetv3-small"), size


def with_choices(settings: _Settings, checkpoint: Checkpoint, model: str) -> _Settings:
    """Return the settings with the model and the learning rate that will be used."""
    rate = settings.learning_rate or _RATES[is_pretrained(model), has_attention(checkpoint.model)]
    return dataclasses.replace(settings, model=model, learning_rate=rate)


def tuning_rate(start: Checkpoint) -> float:
    """Return the learning rate for stage 2: half that of stage 1 as far as it is known."""
    try:
        record = read_json((start.path or Path()) / FILE)
        part = 1.0 if record["command"] == "tune" else _TUNING
        rate = part * float(record["settings"]["learning_rate"])
        if 0 < rate < math.inf:
            return rate
    except (OSError, ValueError, KeyError, TypeError):
        pass
    # A checkpoint from elsewhere has learnt what it knows.
    return _TUNING * _RATES[True, has_attention(start.model)]
