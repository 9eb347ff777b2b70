"""Checks the files of a checkpoint folder before transformers opens them.

A configuration may ask for any number of layers, and an index or a key of the configuration for
weights of another folder: transformers would build the one and open the other.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from threading import get_ident
from typing import Any, Final

import torch
from torch.nn.modules import module as torch_modules
from torch.overrides import TorchFunctionMode

from edge_runtime.files import repair
from edge_runtime.names import what_is
from edge_runtime.reading import SMALL, open_regular, read_json
from train.errors import CheckpointError

_CONFIG: Final = "config.json"
_SETTINGS: Final = {".json", ".txt", ".model"}
_MOST_FILE: Final = 1 << 28  # bytes of a settings file or a vocabulary; the largest known has 33 MB
_REPEATED: Final = re.compile(r"(layers?|depths?|blocks?|stages?|experts|repeats?)$")
_NO_SIZE: Final = re.compile(r"theta|base|seed|flos|param|token_id")
_MOST_REPEATS: Final = 2_000
_MOST_SIZE: Final = 1 << 24
_LABELS: Final = re.compile(r"num_labels|n_labels|num_classes$")
_MOST_LABELS: Final = 1 << 20
"""transformers makes a name for each."""
_MOST_PARTS: Final = 1 << 16
"""Modules of a model; one of 30,000 million weights in 128 experts a layer has 31,000."""
_MOST_NEW_BYTES: Final = 1 << 35
"""Of a model that is built from its configuration: eight thousand million weights."""
_SPARE_BYTES: Final = 1 << 28
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
    if not folder.exists():
        raise CheckpointError(f"expected a checkpoint folder, nothing is at {folder}")
    if not (folder / _CONFIG).exists():
        raise CheckpointError(
            f"expected a checkpoint folder with a {_CONFIG}, at {folder} is {what_is(folder)}: "
            "`train fit` and save_pretrained make one"
        )
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
        most = _most(name)
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
        folder: The folder; without weights, a model is built up to a size that can be trained.
    """
    stored = sum(map(_size, weight_files(folder)))
    most = _STORED * stored + _SPARE_BYTES if stored else _MOST_NEW_BYTES
    has = f"the files have {stored / 1e6:.0f} MB" if stored else "and there are no weights"
    extent = _Extent(most)
    try:
        with extent.counted():
            auto_model.from_config(config, trust_remote_code=False)
    except _TooLargeError as error:
        raise CheckpointError(
            f"expected a model of at most {most / 1e6:.0f} MB and {_MOST_PARTS} parts in {folder}, "
            f"its config.json asks for {error}, {has}: it belongs to another model"
        ) from None


class _TooLargeError(Exception):
    """A model asks for more than it may have."""


class _Extent(TorchFunctionMode):
    """Counts what the building of a model asks for, and stops it at a limit.

    Within `counted` tensors are shapes alone, so that nothing is allocated. Not only weights count:
    tables of positions and masks are made on the way.
    """

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self._most = most_bytes
        self._bytes = self._parts = 0
        self._thread = get_ident()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, and look at what it made."""
        kwargs = kwargs or {}
        if func is torch.tensor:  # of numbers at hand, which may be asked for again
            kwargs = {"device": "cpu", **kwargs}
        made = func(*args, **kwargs)
        if isinstance(made, torch.Tensor):
            self._require(_bytes(made), "a tensor")
        return made

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count within the block."""
        with contextlib.ExitStack() as stack:
            for register, hook in (
                (torch_modules.register_module_parameter_registration_hook, self._add_tensor),
                (torch_modules.register_module_buffer_registration_hook, self._add_tensor),
                (torch_modules.register_module_module_registration_hook, self._add_part),
            ):
                stack.callback(register(hook).remove)
            stack.enter_context(torch.device("meta"))
            stack.enter_context(self)
            yield

    def _add_tensor(self, module: Any, name: str, tensor: torch.Tensor | None) -> None:
        if tensor is not None and get_ident() == self._thread:
            self._bytes += _bytes(tensor)
            self._require(self._bytes, f"weights up to {type(module).__name__}.{name}")

    def _add_part(self, module: Any, name: str, _: Any) -> None:
        if get_ident() == self._thread:
            self._parts += 1
            if self._parts > _MOST_PARTS:
                raise _TooLargeError(f"more parts, e.g. {name[:40]} of {type(module).__name__}")

    def _require(self, wanted: int, what: str) -> None:
        if wanted > self._most:
            raise _TooLargeError(f"{what} of at least {wanted / 1e6:.3g} MB")


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _most(name: str) -> int:
    """Return the largest number that a key of a configuration may have."""
    if _LABELS.search(name):
        return _MOST_LABELS
    return _MOST_REPEATS if _REPEATED.search(name) else _MOST_SIZE


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
