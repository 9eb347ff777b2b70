"""A Hugging Face checkpoint of a text classifier as a source; the bundle gets its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edge_runtime import contract
from edge_runtime.contract import InputDescription
from edge_runtime.inputs.texts import TextEncoder
from export.errors import GraphError, PreprocessingError, VerificationError
from export.exporters import Exporter, export_logits
from export.external import OnnxFile
from export.sources.checkpoint import CheckpointSource
from export.sources.probes import synthetic_texts
from export.sources.reference import Gate, Reference
from export.sources.source import Feeds, Inputs
from train.models import Checkpoint, training_of

TOKENIZER_FILE = "tokenizer.json"
_EXAMPLE = ("a text", "another text, of more tokens than the first")
_FREE = {0: "batch", 1: "tokens"}


@dataclass(frozen=True, eq=False, kw_only=True)
class TextSource(CheckpointSource):
    """A text classifier with its tokenizer.

    Attributes:
        encode: The tokenizer as the runtime applies it.
    """

    encode: TextEncoder

    def translate(self) -> OnnxFile:
        """Return the graph of the exporter."""
        return export_logits(
            self.checkpoint,
            self.checkpoint.encode(_EXAMPLE),
            self.scratch,
            free=_FREE,
            takes=contract.TOKEN_INPUTS,
            exporter=self.exporter,
        )

    def feeds(self, raw: Sequence[str]) -> Feeds:
        """Return all inputs that a graph may take, int64 [n, tokens], as the runtime makes them."""
        return dict(self.encode(raw))

    def synthetic(self, seed: int) -> Inputs:
        """Return texts of random tokens, one of them longer than the model takes."""
        texts = synthetic_texts(self.checkpoint.processor, seed)
        return Inputs(self.feeds(texts), texts, synthetic=True)

    def reference(self, inputs: Inputs, gate: Gate) -> Reference:
        """Return the decisions of PyTorch behind the tokenizer of transformers.

        Raises:
            VerificationError: The bundle's tokenizer makes other tokens.
        """
        assert inputs.raw is not None  # noqa: S101 - texts are always known
        expected = self.checkpoint.encode(inputs.raw)
        differing = [n for n, ids in expected.items() if not np.array_equal(inputs.feeds[n], ids)]
        if differing:
            raise VerificationError(
                f"expected the same {' and '.join(differing)} from the bundle's tokenizer and the "
                "checkpoint's, they differ: nothing was written, save the tokenizer again with "
                "this version of transformers"
            )
        return super().reference(inputs, gate)


def open_text_source(
    place: Path, checkpoint: Checkpoint, scratch: Path, exporter: Exporter
) -> TextSource:
    """Return a text classifier as a source, and write its tokenizer into `scratch`.

    The tokenizer is written as the runtime reads it: it truncates and pads like transformers.

    Raises:
        GraphError: The model takes more than tokens.
        PreprocessingError: The tokenizer cannot be written as one file.
    """
    own = checkpoint.processor
    tokenizer = standalone_tokenizer(own, place)
    if own.pad_token_id is None:
        raise PreprocessingError(
            f"expected a tokenizer with a padding token in {place}, got none: set its pad_token "
            "and the model's pad_token_id"
        )
    tokenizer.enable_truncation(own.model_max_length, direction=own.truncation_side)
    tokenizer.enable_padding(
        direction=own.padding_side,
        pad_id=own.pad_token_id,
        pad_type_id=own.pad_token_type_id,
        pad_token=own.pad_token,
    )
    file = write_tokenizer(tokenizer, scratch)
    names = tuple(checkpoint.encode(_EXAMPLE[:1]))
    if not set(names) <= set(contract.TOKEN_INPUTS):
        raise GraphError(
            f"expected a text classifier of {', '.join(contract.TOKEN_INPUTS)}, got "
            f"{', '.join(names)} from the tokenizer in {place}: only these are supported"
        )
    return TextSource(
        place=place,
        kind="text",
        labels=checkpoint.labels,
        input=InputDescription(name=contract.TEXT, dtype="str", shape=("batch",)),
        tokenizer=file,
        training=training_of(place),
        checkpoint=checkpoint,
        scratch=scratch,
        exporter=exporter,
        encode=TextEncoder(file, contract.TOKEN_INPUTS),
    )


def standalone_tokenizer(tokenizer: Any, place: Path) -> Tokenizer:
    """Return a copy of a tokenizer of transformers that works without it.

    Raises:
        PreprocessingError: The tokenizer works in Python alone.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise PreprocessingError(
            f"expected a tokenizer in {place} that can be written as {TOKENIZER_FILE}, got "
            f"{type(tokenizer).__name__}, which works in Python alone: convert it to a fast one"
        )
    return Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> Path:
    """Write `tokenizer.json` into a folder, and return the file."""
    file = folder / TOKENIZER_FILE
    file.write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    return file
