"""Reads the tokenizer of llama2.c as a fast tokenizer of transformers.

A file is an int32 (bytes of the longest piece), then for each token its score float32, its length
int32 and its bytes. Text becomes characters with a blank before them, characters that are no piece
become bytes; then, again and again, the two neighbours merge whose union has the highest score.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from train.errors import CheckpointError

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
_LONGEST = struct.Struct("<i")
_ENTRY = struct.Struct("<fi")
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_SPECIAL = (UNKNOWN, BEGIN, END)
_FIXED = (*_SPECIAL, *_BYTES)


def read_tokenizer(path: Path, vocabulary: int, context: int) -> Any:
    """Return a file's tokenizer; a prompt begins with `<s>`, which also ends an answer.

    llama2.c trains on texts with `<s>` between them and stops at it.

    Args:
        path: The file.
        vocabulary: How many tokens the model has.
        context: The most tokens of a text.

    Raises:
        CheckpointError: It is missing, damaged, or of another model.
    """
    scores = _pieces(path)
    if len(scores) != vocabulary:
        raise CheckpointError(
            f"expected the model's {vocabulary} tokens in {path}, it has {len(scores)}: it is "
            "damaged or the tokenizer of another model"
        )
    ids = {piece: i for i, piece in enumerate(scores)}
    tokenizer = Tokenizer(
        models.BPE(vocab=ids, merges=_merges(scores), unk_token=UNKNOWN, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, ids[BEGIN])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        pad_token=UNKNOWN,  # no text has it: what is no piece becomes bytes
        bos_token=BEGIN,
        eos_token=BEGIN,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def _pieces(path: Path) -> dict[str, float]:
    """Return the score of each piece, in the order of the tokens."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"expected a tokenizer of llama2.c at {path}: {error.strerror}"
        ) from None
    try:
        scores = dict(_entries(content))
    except (struct.error, ValueError) as error:
        raise CheckpointError(
            f"expected a tokenizer of llama2.c in {path}, it is damaged: {error}"
        ) from None
    if tuple(scores)[: len(_FIXED)] != _FIXED:
        raise CheckpointError(
            f"expected a tokenizer of llama2.c in {path}, its first tokens are not {UNKNOWN}, "
            f"{BEGIN}, {END} and the 256 bytes"
        )
    return scores


def _entries(content: bytes) -> Iterator[tuple[str, float]]:
    at = _LONGEST.size
    found: set[str] = set()
    while at < len(content):
        score, length = _ENTRY.unpack_from(content, at)
        at += _ENTRY.size
        if not 0 < length <= len(content) - at or not math.isfinite(score):
            raise ValueError(f"token {len(found)} has the length {length} and the score {score}")
        piece = content[at : at + length].decode()
        if len(found) < len(_SPECIAL):
            piece = piece.strip("\n")  # they are written as they are to be printed
        if piece in found:
            raise ValueError(f"{piece!r} is there twice")
        found.add(piece)
        yield piece, score
        at += length


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Return the pairs that make a piece, the highest score first."""
    whole = [piece for piece in scores if piece not in _FIXED]
    return [
        (piece[:at], piece[at:])
        for piece in sorted(whole, key=scores.__getitem__, reverse=True)
        for at in range(1, len(piece))
        if piece[:at] in scores and piece[at:] in scores
    ]
