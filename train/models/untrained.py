"""Makes small causal language models with random weights, and their tokenizers from text."""

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
"""Those whose layers may see no further back than a window: of gemma2 every other one, of qwen2 the
upper half, of mistral all."""
_PAD, _BEGIN, _END = "<pad>", "<bos>", "<eos>"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size of a language model.

    Attributes:
        width: Hidden size.
        layers: Decoder layers.
        heads: Attention heads.
        kv_heads: Heads of keys and values that they share; not for gpt2.
        inner: Size between the two layers of a feed-forward block.
        context: Most tokens of prompt and answer together.
        window: Tokens that a layer with a window sees; None is what the library takes. For the
            architectures of `WINDOWED`.
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

    Every text has tokens, whatever it was trained on; a prompt begins with `<bos>`.

    Args:
        texts: What to train on.
        vocabulary: Most tokens, the 256 bytes and three special ones among them.
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
        clean_up_tokenization_spaces=False,
    )


def untrained_language_model(
    architecture: Architecture, shape: Shape, tokenizer: Any, *, seed: int = 0
) -> LanguageModel:
    """Return a language model with random weights, its vocabulary that of the tokenizer.

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
            # Small models forget more by it than they gain.
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
