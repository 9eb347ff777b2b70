"""Lets models of grey pictures take colour pictures, as everything here gives them.

A model of one channel begins with a convolution, and grey is a weighted sum of red, green and blue.
So the convolution gets three channels with shares of its weights, which makes the same of a picture
as it made of its grey version, except that this one is not rounded to 8 bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from train.errors import CheckpointError

_COLOURS = 3
_GREY = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # Pillow's shares of red, green and blue


def open_channels(model: Any, processor: Any, place: object) -> None:
    """Give a model of one channel three, and its processor a mean for each, in place.

    Args:
        model: A classifier of pictures.
        processor: Its image processor.
        place: Their folder, for messages.

    Raises:
        CheckpointError: The model takes another number of channels, or does not begin with a
            convolution; or its processor treats the colours of a grey picture differently.
    """
    spread_statistics(processor, place)
    channels = getattr(model.config, "num_channels", _COLOURS)
    if channels == _COLOURS:
        return
    narrow = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 1]
    if channels != 1 or len(narrow) != 1:
        raise CheckpointError(
            f"expected a model of pictures with 3 channels in {place}, or of 1 that begins with a "
            f"convolution, got num_channels {channels}: train it on colour pictures"
        )
    if any(len(set(getattr(processor, name))) > 1 for name in _in_use(processor)):
        raise CheckpointError(
            f"expected one image_mean and one image_std for the grey pictures of {place}, got "
            "different ones: correct its preprocessor_config.json"
        )
    (first,) = narrow
    first.in_channels = _COLOURS
    shares = torch.tensor(_GREY)[None, :, None, None]
    first.weight = nn.Parameter(first.weight.detach() * shares)
    for module in model.modules():  # embeddings compare it with the pictures
        if getattr(module, "num_channels", None) == 1:
            module.num_channels = _COLOURS
    model.config.num_channels = _COLOURS


def spread_statistics(processor: Any, place: object) -> None:
    """Give each colour a mean and a deviation of its own where a processor has one for all.

    Raises:
        CheckpointError: A processor has neither one nor three.
    """
    for name in _in_use(processor):
        value = getattr(processor, name)
        values = list(value) if isinstance(value, list | tuple) else [value]
        if len(values) not in {1, _COLOURS}:
            raise CheckpointError(
                f"expected an {name} of 3 numbers in {place}, got {len(values)}: correct its "
                "preprocessor_config.json"
            )
        setattr(processor, name, values * (_COLOURS // len(values)))


def _in_use(processor: Any) -> tuple[str, ...]:
    """Return the names of a processor's statistics; some classes normalise without any."""
    if not getattr(processor, "do_normalize", False):
        return ()
    names = ("image_mean", "image_std")
    return tuple(name for name in names if getattr(processor, name, None) is not None)
