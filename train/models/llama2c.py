"""Reads weights and tokenizers of llama2.c (github.com/karpathy/llama2.c, version 0).

A file of weights is seven little-endian int32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads,
vocab_size, seq_len) followed by float32: each kind of matrix for all layers in turn. A negative
vocab_size means that the output layer is not the embedding and stands at the end.

A file of a tokenizer is an int32 (bytes of the longest piece), then for each token its score
float32, its length int32 and its bytes. Text becomes characters with a space before them, and
characters that are not a piece become bytes; then the two neighbours whose union has the highest
score merge, again and again.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from train.errors import CheckpointError

Floats = npt.NDArray[np.float32]
_HEADER = struct.Struct("<7i")
_MAGIC = 0x616B3432  # "ak42", the start of versions 1 and 2
_ROTARY_BASE = 10_000.0
_NORM_EPSILON = 1e-5
_FLOAT_BYTES = 4

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
_LONGEST = struct.Struct("<i")
_ENTRY = struct.Struct("<fi")
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_SPECIAL = (UNKNOWN, BEGIN, END)
_FIXED = (*_SPECIAL, *_BYTES)


@dataclass(frozen=True)
class Sizes:
    """The sizes in the header of a file.

    Attributes:
        width: Hidden size.
        inner: Size between the two layers of a feed-forward block.
        layers: Number of decoder layers.
        heads: Number of attention heads.
        kv_heads: Number of key and value heads, which the attention heads share.
        vocabulary: Number of tokens.
        context: Most tokens of a sequence.
        tied: Whether the output layer is the embedding.
    """

    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    tied: bool

    @property
    def head(self) -> int:
        """The size of an attention head."""
        return self.width // self.heads

    def matrices(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield name and shape of each matrix, in the order of the file."""
        layers, width, inner, keys = self.layers, self.width, self.inner, self.kv_heads * self.head
        yield "embed_tokens", (self.vocabulary, width)
        yield "input_layernorm", (layers, width)
        yield "self_attn.q_proj", (layers, width, width)
        yield "self_attn.k_proj", (layers, keys, width)
        yield "self_attn.v_proj", (layers, keys, width)
        yield "self_attn.o_proj", (layers, width, width)
        yield "post_attention_layernorm", (layers, width)
        yield "mlp.gate_proj", (layers, inner, width)
        yield "mlp.down_proj", (layers, width, inner)
        yield "mlp.up_proj", (layers, inner, width)
        yield "norm", (width,)
        yield "cosines", (self.context, self.head // 2)
        yield "sines", (self.context, self.head // 2)
        if not self.tied:
            yield "lm_head", (self.vocabulary, width)

    @property
    def file_bytes(self) -> int:
        """The length of a file with this header."""
        # Python's own integers: a header may claim more than 64 bits hold.
        floats = sum(math.prod(shape) for _, shape in self.matrices())
        return _HEADER.size + _FLOAT_BYTES * floats


def read_llama(path: Path) -> Any:
    """Return a file's `LlamaForCausalLM`, in eval mode and float32.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is missing, truncated or of another version, or its sizes, rotary tables
            or numbers are invalid.
    """
    sizes = read_sizes(path)
    matrices = _matrices(path, sizes)
    _check_numbers(matrices, sizes, path)
    model = LlamaForCausalLM(_config(sizes))
    model.load_state_dict(_state(matrices, sizes), strict=True)
    return model.eval()


def read_sizes(path: Path) -> Sizes:
    """Return the sizes in the header of a file, which must add up to its length.

    Raises:
        CheckpointError: It is missing, truncated or of another version, or its sizes are invalid.
    """
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
    except OSError as error:
        raise CheckpointError(f"expected a llama2.c file at {path}: {error.strerror}") from None
    if len(head) >= _FLOAT_BYTES and struct.unpack_from("<I", head)[0] == _MAGIC:
        raise CheckpointError(
            f"expected llama2.c weights of version 0 in {path}, it is of version 1 or 2: export "
            "them with --version 0"
        )
    if len(head) < _HEADER.size:
        raise CheckpointError(
            f"expected a header of {_HEADER.size} bytes in {path}, it has {length}: it is truncated"
        )
    sizes = _checked(_HEADER.unpack(head), path)
    if length != sizes.file_bytes:
        raise CheckpointError(
            f"expected {sizes.file_bytes} bytes in {path}, as its header says, it has {length}: it "
            "is truncated or not a llama2.c file of version 0"
        )
    return sizes


def _checked(head: tuple[int, ...], path: Path) -> Sizes:
    width, inner, layers, heads, kv_heads, vocabulary, context = head
    fits = (
        min(width, inner, layers, heads, kv_heads, abs(vocabulary), context) > 0
        and width % heads == 0
        and heads % kv_heads == 0
        and width // heads % 2 == 0
    )
    if not fits:
        raise CheckpointError(
            f"expected sizes above 0, with heads that divide the width evenly, in the header of "
            f"{path}, got dim {width}, hidden_dim {inner}, n_layers {layers}, n_heads {heads}, "
            f"n_kv_heads {kv_heads}, vocab_size {vocabulary}, seq_len {context}: it is damaged or "
            "not a llama2.c file"
        )
    return Sizes(
        width, inner, layers, heads, kv_heads, abs(vocabulary), context, tied=vocabulary > 0
    )


def _matrices(path: Path, sizes: Sizes) -> dict[str, Floats]:
    values = np.fromfile(path, dtype="<f4", offset=_HEADER.size)
    matrices = {}
    for name, shape in sizes.matrices():
        size = int(np.prod(shape))
        matrices[name], values = values[:size].reshape(shape), values[size:]
    return matrices


def _check_numbers(matrices: dict[str, Floats], sizes: Sizes, path: Path) -> None:
    for name, values in matrices.items():
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"expected finite weights in {path}, {name} holds NaN or infinity"
            )
    frequencies = _ROTARY_BASE ** (-np.arange(0, sizes.head, 2) / sizes.head)
    angles = np.arange(sizes.context)[:, None] * frequencies
    found = matrices["cosines"] + 1j * matrices["sines"]
    if not np.allclose(found, np.exp(1j * angles), rtol=0, atol=1e-3):
        raise CheckpointError(
            f"expected rotary tables of the base {_ROTARY_BASE:.0f} in {path}, it has others: only "
            "models trained with that base are converted"
        )


def _config(sizes: Sizes) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.inner,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        max_position_embeddings=sizes.context,
        rms_norm_eps=_NORM_EPSILON,
        tie_word_embeddings=sizes.tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )


def _state(matrices: dict[str, Floats], sizes: Sizes) -> dict[str, Tensor]:
    """Return the weights under transformers' names."""
    state = {
        "model.embed_tokens.weight": matrices["embed_tokens"],
        "model.norm.weight": matrices["norm"],
        "lm_head.weight": matrices["embed_tokens" if sizes.tied else "lm_head"],
    }
    for name, shape in sizes.matrices():
        if name in ("embed_tokens", "norm", "cosines", "sines", "lm_head"):
            continue
        for layer in range(shape[0]):
            state[f"model.layers.{layer}.{name}.weight"] = _reorder_pairs(
                name, matrices[name][layer], sizes
            )
    return {name: torch.from_numpy(values.copy()) for name, values in state.items()}


def _reorder_pairs(name: str, matrix: Floats, sizes: Sizes) -> Floats:
    """Order the rows of queries and keys as transformers rotates them.

    llama2.c rotates neighbours (0, 1), (2, 3), ... of a head; transformers rotates element i of the
    first half with element i of the second.
    """
    if name not in ("self_attn.q_proj", "self_attn.k_proj"):
        return matrix
    pairs = matrix.reshape(-1, sizes.head // 2, 2, sizes.width)
    return pairs.swapaxes(1, 2).reshape(matrix.shape)


def read_tokenizer(path: Path, vocabulary: int, context: int) -> Any:
    """Return a file's tokenizer; a prompt begins with `<s>`, which also ends an answer.

    llama2.c trains on texts with `<s>` between them and stops at it.

    Args:
        path: The file.
        vocabulary: Number of the model's tokens.
        context: Most tokens of a text.

    Raises:
        CheckpointError: It is missing or damaged, or belongs to another model.
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
        pad_token=UNKNOWN,  # no text has it: what is not a piece becomes bytes
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
            piece = piece.strip("\n")  # the file holds them as the program prints them
        if piece in found:
            raise ValueError(f"{piece!r} occurs twice")
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
