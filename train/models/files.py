"""Checks the files of a checkpoint folder before transformers opens them.

A configuration may ask for any number of layers, and an index or a key of the configuration for
weights of another folder: transformers would build the one and open the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from edge_runtime.files import repair
from edge_runtime.reading import SMALL, open_regular, read_json
from train.errors import CheckpointError

_CONFIG: Final = "config.json"
_SETTINGS: Final = {".json", ".txt", ".model"}
_MOST_FILE: Final = 1 << 28  # bytes of a settings file or a vocabulary; the largest known has 33 MB
_REPEATED: Final = re.compile(r"(layers?|depths?|blocks?|stages?|experts|repeats?)$")
_NO_SIZE: Final = re.compile(r"theta|base|seed|flos|param|token_id")
_MOST_REPEATS: Final = 2_000
_MOST_SIZE: Final = 1 << 24
_SPARE_BYTES: Final = 1 << 26
_FLOAT: Final = 4
_STORED: Final = 4
"""Float32 has at most this many times the bytes of the weights on disk, e.g. of 8-bit floats."""


def check_files(folder: Path) -> None:
    """Raise `CheckpointError` where a folder is no checkpoint, or takes weights from elsewhere."""
    if not folder.exists():
        repair(folder)
    check_config(folder)
    names = {file.name for file in weight_files(folder)}
    if not names:
        raise CheckpointError(
            f"expected safetensors weights in {folder}, got none: pickled weights can run code and "
            "are not opened, save the model with safe_serialization=True"
        )
    for file in weight_files(folder):
        try:
            open_regular(file).close()
        except OSError as error:  # safetensors calls every one of them a missing file
            raise CheckpointError(
                f"expected weights that can be read in {folder}, {file.name} gives "
                f"{error.strerror or error}: check its owner and mode"
            ) from None
    for name in _weights_named(folder):
        if name not in names:
            raise CheckpointError(
                f"expected an index of the weights in {folder}, it names {str(name)[:80]!r}: "
                "refused, save the model in one folder"
            )


def check_config(folder: Path) -> None:
    """Raise `CheckpointError` where a folder has no configuration, or one of an endless model."""
    if not folder.is_dir():
        raise CheckpointError(f"expected a checkpoint folder, nothing is at {folder}")
    check_regular(folder)
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"expected a whole model in {folder}, adapter_config.json asks for one in another "
            "folder: merge the adapter into its model"
        )
    try:
        config = read_json(folder / _CONFIG)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"expected a config.json in {folder}: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"expected an object in {folder / _CONFIG}, got other JSON")
    for name, value in _numbers(config):
        most = _MOST_REPEATS if _REPEATED.search(name) else _MOST_SIZE
        if value > most and not _NO_SIZE.search(name):
            raise CheckpointError(
                f"expected at most {most} as {name} in {folder / _CONFIG}, got "
                f"{str(value)[:12]}: no model of that size is opened"
            )


def check_regular(folder: Path) -> None:
    """Raise `CheckpointError` where a folder holds pipes, devices, or settings of endless size."""
    for file in folder.iterdir():
        is_large = file.suffix in _SETTINGS and file.is_file() and _size(file) > _MOST_FILE
        if is_large or (file.exists() and not (file.is_dir() or file.is_file())):
            raise CheckpointError(
                f"expected files of at most {_MOST_FILE >> 20} MiB beside the weights, {file} is "
                "larger or no regular file: remove it"
            )


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint's weights in order, without its deferral head."""
    return sorted(folder.glob("model*.safetensors"))


def require_fitting(auto_model: Any, config: Any, folder: Path) -> None:
    """Raise `CheckpointError` where a configuration asks for more weights than its folder holds.

    transformers makes room for all weights, and fills those that are missing, before anything can
    be compared.

    Args:
        auto_model: transformers' class that opens the model.
        config: Its configuration.
        folder: The folder.
    """
    try:
        with torch.device("meta"):  # shapes alone
            model = auto_model.from_config(config, trust_remote_code=False)
    except Exception:  # noqa: BLE001 - not every model can be built without its numbers
        return
    wanted = _FLOAT * sum(weight.numel() for weight in model.parameters())
    stored = sum(map(_size, weight_files(folder)))
    if wanted > _STORED * stored + _SPARE_BYTES:
        raise CheckpointError(
            f"expected the weights of {type(model).__name__} in {folder}, its config.json asks for "
            f"{wanted / 1e6:.0f} MB, the files have {stored / 1e6:.0f} MB: it belongs to another "
            "model"
        )


def _weights_named(folder: Path) -> Iterator[Any]:
    """Yield the names of weight files in a folder's configuration and indices."""
    named = read_json(folder / _CONFIG).get("transformers_weights")
    if named is not None:
        yield named
    for index in folder.glob("*.safetensors.index.json"):
        try:
            yield from set(read_json(index, limit=4 * SMALL)["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"expected weight_map with file names in {index}, got other content ({error}): "
                "save the model again"
            ) from None


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield (key, whole number) of a configuration, and (key, length) of its lists."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in {"label2id", "id2label"}:
                yield from _numbers(inner, str(key))
    elif isinstance(value, list):
        yield name, len(value)
        for inner in value:
            yield from _numbers(inner, name)
    elif isinstance(value, int):
        yield name, value


def _size(file: Path) -> int:
    return file.stat().st_size
