"""The two kinds of classifiers, of pictures and of texts: their classes, processors, encoding."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from edge_runtime.files import one_line
from edge_runtime.inputs.texts import no_panic, read_as_text, require_bounded
from edge_runtime.reading import read_json
from train.data import Kind
from train.errors import CheckpointError
from train.models.mobilenet_v3 import MobileNetV3Small, MobileNetV3SmallConfig
from train.models.small_cnn import SmallCNN, SmallCNNConfig
from train.models.small_resnet import SmallResNet, SmallResNetConfig

_OWN = (
    (MobileNetV3SmallConfig, MobileNetV3Small),
    (SmallCNNConfig, SmallCNN),
    (SmallResNetConfig, SmallResNet),
)
for _config, _model in _OWN:
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForImageClassification.register(_config, _model, exist_ok=True)

SAFE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
"""Arguments of every `from_pretrained`: run no code of the folder, use no network."""
_AT_ONCE = 16
_LONGEST_TEXT = 512  # tokens, if neither tokenizer nor model gives a limit


@dataclass(frozen=True)
class Family:
    """The classifiers of one kind of input.

    Attributes:
        kind: The kind.
        auto_model: The transformers class that opens them.
    """

    kind: Kind
    auto_model: Any


FAMILIES = (
    Family("image", AutoModelForImageClassification),
    Family("text", AutoModelForSequenceClassification),
)


def generates(config: Any) -> bool:
    """Return whether a configuration names an architecture that generates text token by token."""
    named = getattr(config, "architectures", None) or [""]
    return str(named[0]).endswith(("ForCausalLM", "LMHeadModel"))


def refuse_kernels(folder: Path) -> None:
    """Refuse a `config.json` that names attention or experts by a repository, at any depth.

    transformers downloads and imports such code if the package `kernels` is installed, whatever
    `SAFE` says.

    Raises:
        CheckpointError: The configuration does.
        OSError: There is no such file, or it is too large.
        ValueError: The file is no JSON.
    """
    waiting = [(False, read_json(folder / "config.json"))]
    while waiting:
        named, value = waiting.pop()
        if named and isinstance(value, str) and "/" in value:
            raise CheckpointError(
                f"expected attention that transformers has in {folder}, its config.json asks for "
                f"code from {value[:60]!a}: remove the entry"
            )
        if isinstance(value, dict):
            waiting.extend((named or "_implementation" in key, v) for key, v in value.items())
        elif isinstance(value, list):
            waiting.extend((named, item) for item in value)


def family_of(folder: Path) -> Family:
    """Return the family of a folder's `config.json`.

    Raises:
        CheckpointError: The model classifies neither pictures nor texts.
    """
    refuse_kernels(folder)
    config = AutoConfig.from_pretrained(folder, **SAFE)
    if generates(config):
        raise CheckpointError(
            f"expected an image or text classifier in {folder}, it holds a language model "
            f"({config.architectures[0]}): use python -m train fit-lm, tune-lm and evaluate-lm, "
            "and python -m export lm"
        )
    for family in FAMILIES:
        if type(config) in family.auto_model._model_mapping:  # noqa: SLF001 - there is no public way
            return family
    raise CheckpointError(
        f"expected an image or text classifier in {folder}, its config.json is of a "
        f"{config.model_type or 'nameless'} model that is neither"
    )


def open_processor(family: Family, folder: Path, model: Any) -> Any:
    """Return the image processor or the tokenizer of a folder.

    Raises:
        CheckpointError: There is no tokenizer for a text classifier.
    """
    if family.kind == "image":
        return AutoImageProcessor.from_pretrained(folder, use_fast=False, **SAFE)
    try:
        tokenizer = load_tokenizer(folder, use_fast=True)
    except Exception as error:  # noqa: BLE001 - a missing file is a TypeError, or another
        raise CheckpointError(
            f"expected a tokenizer of the text classifier in {folder}, none opens "
            f"({one_line(error, 160)}): save the tokenizer with the model"
        ) from None
    # transformers 5 makes an empty tokenizer if it finds no file.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise CheckpointError(f"expected a tokenizer of the text classifier in {folder}, got none")
    plain_texts(tokenizer)
    # As transformers' Trainer does: a DistilBERT beside BERT's tokenizer takes no token types.
    taken = inspect.signature(model.forward).parameters
    tokenizer.model_input_names = [n for n in tokenizer.model_input_names if n in taken]
    # The limit of tokenizers without one is about 1e30.
    tokenizer.model_max_length = min(tokenizer.model_max_length, _positions(model))
    return tokenizer


def load_tokenizer(folder: Path, **more: Any) -> Any:
    """Return transformers' tokenizer of a folder.

    Raises:
        InputError: Its library panics.
        ValueError: A text would make work out of all proportion; see `require_bounded`.
        Exception: There is none, or it is damaged.
    """
    with no_panic(plain=False):
        tokenizer = AutoTokenizer.from_pretrained(folder, **SAFE, **more)
        if getattr(tokenizer, "is_fast", False):
            require_bounded(tokenizer.backend_tokenizer)
    return tokenizer


def plain_texts(tokenizer: Any) -> None:
    """Make a tokenizer of transformers read texts as the device does; see `read_as_text`."""
    tokenizer.split_special_tokens = True  # else every call would set the library's own choice
    if getattr(tokenizer, "is_fast", False):
        read_as_text(tokenizer.backend_tokenizer)


def _positions(model: Any) -> int:
    """Return the largest number of tokens of a text classifier."""
    positions = getattr(model.config, "max_position_embeddings", None) or _LONGEST_TEXT
    embeddings = getattr(model.base_model, "embeddings", None)
    # RoBERTa and its relatives number positions from after that of the padding.
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return int(positions - (0 if padding is None else padding + 1))


def encode(kind: Kind, processor: Any, inputs: Sequence[Any]) -> dict[str, Tensor]:
    """Return the inputs of a model.

    Returns:
        `pixel_values` float32 [n, channels, height, width] for pictures uint8 [height, width, 3];
        `input_ids`, `attention_mask` and the like int64 [n, tokens] for texts.
    """
    if kind == "text":
        with no_panic():
            encoded = processor(list(inputs), padding=True, truncation=True, return_tensors="pt")
        return dict(encoded)
    # A few at a time: those of a data set are decoded here, and 256 photographs fill the memory.
    chunks = [
        processor(
            list(inputs[start : start + _AT_ONCE]),
            return_tensors="np",
            input_data_format="channels_last",
        )["pixel_values"]
        for start in range(0, len(inputs), _AT_ONCE)
    ]
    pixels = np.ascontiguousarray(np.concatenate(chunks), dtype=np.float32)
    # Colours last in memory: convolutions of a SmallCNN then train twice as fast on a CPU.
    return {"pixel_values": torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last)}
