"""A Hugging Face checkpoint of a text classifier as a source; the bundle gets its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tokenizers import Tokenizer
from torch import Tensor

from edge_runtime import contract
from edge_runtime.contract import InputDescription
from edge_runtime.texts import TextEncoder
from export.commands.build import BuildSettings
from export.errors import GraphError, PreprocessingError, VerificationError
from export.exporters import Exporter, export_logits
from export.external import OnnxFile
from export.sources.probes import made_up_texts
from export.sources.reference import Gate, Reference, ask_pytorch
from export.sources.source import Feeds, Inputs
from train.data import Kind
from train.models import Checkpoint, DeferralHead, Training, read_head, training_of, weights_sha256

TOKENIZER_FILE = "tokenizer.json"
_EXAMPLE = ("a text", "another text, of more tokens than the first")
_FREE = {0: "batch", 1: "tokens"}


@dataclass(frozen=True)
class TextCheckpointSource:
    """A text classifier with its tokenizer; see `Source`."""

    place: Path
    checkpoint: Checkpoint
    tokenizer: Path
    encode: TextEncoder
    scratch: Path
    exporter: Exporter
    kind: Kind = "text"
    processor: None = None
    runs_in: str = "PyTorch"

    @classmethod
    def of(
        cls, path: Path, checkpoint: Checkpoint, settings: BuildSettings, scratch: Path
    ) -> TextCheckpointSource:
        """Write the tokenizer as the runtime reads it.

        Args:
            path: The checkpoint's folder.
            checkpoint: What was opened there.
            settings: The exporter, and what has no sense for texts.
            scratch: A folder for the tokenizer and for large weights.

        Raises:
            GraphError: The model takes more than tokens, or a setting is for pictures.
            PreprocessingError: The tokenizer cannot be written as one file.
        """
        _refuse_settings_of_pictures(settings)
        file = scratch / TOKENIZER_FILE
        file.write_text(_as_one_file(checkpoint.processor, path), encoding="utf-8")
        names = tuple(checkpoint.encode(_EXAMPLE[:1]))
        if not set(names) <= set(contract.TOKEN_INPUTS):
            raise GraphError(
                f"expected a text classifier of {', '.join(contract.TOKEN_INPUTS)}, the tokenizer "
                f"in {path} makes {', '.join(names)}: only these are handled"
            )
        encode = TextEncoder(file, contract.TOKEN_INPUTS)
        return cls(path, checkpoint, file, encode, scratch, settings.exporter)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.checkpoint.labels

    @property
    def input(self) -> InputDescription:
        """The text."""
        return InputDescription(name=contract.TEXT, dtype="str", shape=("batch",))

    @property
    def image_size(self) -> tuple[int, int]:
        """Refuse: there are no pictures."""
        raise GraphError(f"expected an image classifier, {self.place} classifies texts")

    def graph(self) -> onnx.ModelProto:
        """Return what the exporter makes of the model."""
        return self._translated.model

    @property
    def weights(self) -> Path | None:
        """The folder of weights that are too large for the graph, or None."""
        return self._translated.weights

    @cached_property
    def _translated(self) -> OnnxFile:
        return export_logits(
            self.checkpoint,
            self.checkpoint.encode(_EXAMPLE),
            self.scratch,
            free=_FREE,
            takes=contract.TOKEN_INPUTS,
            exporter=self.exporter,
        )

    def feeds(self, given: Sequence[str]) -> Feeds:
        """Return all that a graph may take, int64 [n, tokens], as the runtime makes it."""
        return dict(self.encode(given))

    def made_up(self, seed: int) -> Inputs:
        """Return texts of random tokens, one of them longer than the model takes."""
        texts = made_up_texts(self.checkpoint.processor, seed)
        return Inputs(self.feeds(texts), texts, made_up=True)

    def ask(self, inputs: Inputs, gate: Gate) -> Reference:
        """Let PyTorch decide, behind the tokenizer of transformers.

        Raises:
            VerificationError: The bundle's tokenizer makes other tokens.
        """
        assert inputs.given is not None  # noqa: S101 - a text is always given
        _require_same_tokens(inputs.feeds, self.checkpoint.encode(inputs.given))
        return ask_pytorch(self.checkpoint, inputs.given, gate)

    @property
    def training(self) -> Training | None:
        """What the folder's `training.json` says."""
        return training_of(self.place)

    def deferral_head(self) -> DeferralHead:
        """Return the head beside the weights."""
        return read_head(self.checkpoint)

    def sha256(self) -> str:
        """Return that of the weights."""
        return weights_sha256(self.place)


def _refuse_settings_of_pictures(settings: BuildSettings) -> None:
    if settings.second_look != "none":
        raise GraphError(
            f"expected no --second-look for a text classifier, got {settings.second_look}: it is a "
            "view of pictures"
        )
    if settings.preprocessing == "none":
        raise GraphError(
            "expected no --preprocessing none for a text classifier: its bundle carries the "
            "tokenizer beside the graph"
        )
    if settings.quantize == "int8":
        raise GraphError(
            "expected --quantize int8-dynamic, int4 or fp16 for a text classifier, got int8: the "
            "ranges of a transformer's activations differ too much from text to text to be fixed"
        )


def _require_same_tokens(feeds: Feeds, expected: Mapping[str, Tensor]) -> None:
    differing = [n for n, ids in expected.items() if not np.array_equal(feeds[n], ids.numpy())]
    if differing:
        raise VerificationError(
            f"expected the bundle's tokenizer to make the {' and '.join(differing)} of the "
            "checkpoint's, they differ: nothing was written, save the tokenizer again with this "
            "version of transformers"
        )


def _as_one_file(tokenizer: Any, path: Path) -> str:
    """Return a `tokenizer.json` that cuts and pads by itself, as transformers does."""
    if not getattr(tokenizer, "is_fast", False):
        raise PreprocessingError(
            f"expected a tokenizer that is written as {TOKENIZER_FILE} in {path}, "
            f"{type(tokenizer).__name__} works in Python alone: convert it to a fast one"
        )
    if tokenizer.pad_token_id is None:
        raise PreprocessingError(
            f"expected a tokenizer with a padding token in {path}, it has none: set its pad_token "
            "and the model's pad_token_id"
        )
    alone = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    alone.enable_truncation(tokenizer.model_max_length, direction=tokenizer.truncation_side)
    alone.enable_padding(
        direction=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id,
        pad_type_id=tokenizer.pad_token_type_id,
        pad_token=tokenizer.pad_token,
    )
    text: str = alone.to_str(pretty=True)
    return text + "\n"
