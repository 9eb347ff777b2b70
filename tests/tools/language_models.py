"""Makes tiny language models whose answers differ, and answers with them the slow way."""

import numpy as np
import torch

from train.models.language import LanguageModel
from train.models.untrained import Shape, trained_tokenizer, untrained_language_model

TEXTS = ["what is my balance", "how do I freeze my card", "book a flight to Paris"] * 4
PROMPTS = [
    "what",
    "how do I freeze my card, and what is my balance? I have asked it before",
    "book a flight to Paris",
    "übermorgen 天気 \N{UMBRELLA}",
    "my card is my card",
]
SHAPE = Shape(width=16, layers=2, heads=4, kv_heads=2, inner=24, context=96)

DECODED = ("gemma", "gemma2", "llama", "gpt2")
"""Architectures whose decoding is tried; the others of this toolkit are made of the same parts."""


def tiny(architecture, *, vocabulary=280, seed=0, shape=SHAPE) -> LanguageModel:
    """Return a language model in whose distributions some tokens stand out, in float64.

    Where attention is transformers' own, as in Gemma 2, it is float32: there the mask of a float64
    model overflows in a softmax that is always float32.
    """
    tokenizer = trained_tokenizer(TEXTS, vocabulary)
    made = untrained_language_model(architecture, shape, tokenizer, seed=seed)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in made.model.parameters():
            if values.ndim > 1:
                values.normal_(0.0, 0.4, generator=draws)
    eager = made.model.config._attn_implementation == "eager"
    return LanguageModel(made.model if eager else made.model.double(), tokenizer, None)


def tolerance(lm):
    """Return how far from exact the confidences of a language model may be."""
    return 1e-6 if lm.model.dtype == torch.float64 else 1e-5


def by_hand(lm, prompt, most):
    """Return tokens, negative entropies and log-probabilities of an answer.

    One prompt at a time and a whole forward pass for each token; the distribution in numpy.
    """
    ids, rows = lm.tokenizer(prompt)["input_ids"], []
    while len(rows) < min(most, lm.context - len(lm.tokenizer(prompt)["input_ids"])):
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids])).logits[0, -1].double().numpy()
        p = np.exp(logits - logits.max())
        p /= p.sum()
        token = int(p.argmax())
        rows.append((token, np.sum(p * np.log(p)), np.log(p[token])))
        ids = [*ids, token]
        if token == lm.tokenizer.eos_token_id:
            break
    return tuple(np.array(column) for column in zip(*rows, strict=True))
