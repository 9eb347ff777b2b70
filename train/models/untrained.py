"""Makes small causal language models with random weights, and trains tokenizers on text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from train.models.language import LanguageModel, attention_of

Architecture = Literal["gemma", "gemma2", "llama", "gpt2", "qwen2", "mistral"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
WINDOWED: tuple[Architecture, ...] = ("gemma2", "qwen2", "mistral")
"""Architectures with sliding-window layers: every other layer of gemma2, the upper half of qwen2,
all of mistral."""
_PAD, _BEGIN, _END = "<pad>", "<bos>", "<eos>"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size of a language model.

    Attributes:
        width: Hidden size.
        layers: Decoder layers.
        heads: Attention heads.
        kv_heads: Key and value heads, which the attention heads share; not for gpt2.
        inner: Size between the two layers of a feed-forward block.
        context: Most tokens of prompt and answer together.
        window: Tokens that a sliding-window layer sees, for the architectures of `WINDOWED`; None
            for the library's default.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    context: int
    window: int | None = None


def trained_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (Sennrich et al. 2016; Radford et al. 2019).

    It can tokenize every text, not only those it was trained on; a prompt begins with `<bos>`.

    Args:
        texts: The texts to train on.
        vocabulary: Most tokens, including the 256 bytes and three special ones.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_PAD, _BEGIN, _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A",
        special_tokens=[(_BEGIN, tokenizer.token_to_id(_BEGIN))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        bos_token=_BEGIN,
        eos_token=_END,
        # No text needs it, but without one transformers 5 gives a Qwen2's tokenizer that of Qwen.
        unk_token=_PAD,
        clean_up_tokenization_spaces=False,
    )


def untrained_language_model(
    architecture: Architecture, shape: Shape, tokenizer: Any, *, seed: int = 0
) -> LanguageModel:
    """Return a language model with random weights and the vocabulary of a tokenizer.

    Args:
        architecture: One of `ARCHITECTURES`.
        shape: Its size.
        tokenizer: Its tokenizer.
        seed: Seed of the weights.
    """
    config = CONFIG_MAPPING[architecture](
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **_sizes(architecture, shape),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(config))
    return LanguageModel(model.eval(), tokenizer, None)


def _sizes(architecture: Architecture, shape: Shape) -> dict[str, Any]:
    if architecture == "gpt2":
        return {
            "n_embd": shape.width,
            "n_layer": shape.layers,
            "n_head": shape.heads,
            "n_inner": shape.inner,
            "n_positions": shape.context,
            # Dropout harms small models more than it helps.
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        }
    sizes = {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.width // shape.heads,
        "intermediate_size": shape.inner,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": True,
    }
    if architecture == "qwen2":
        del sizes["head_dim"]  # always width over heads
    if architecture == "gemma2":
        sizes["query_pre_attn_scalar"] = shape.width // shape.heads
    if shape.window is not None:
        sizes["sliding_window"] = shape.window
        if architecture == "qwen2":
            sizes |= {"use_sliding_window": True, "max_window_layers": shape.layers // 2}
    return sizes
