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


def tiny(architecture, *, vocabulary=280, seed=0, shape=SHAPE) -> LanguageModel:
    """Return a language model in float64, in whose distributions some tokens stand out."""
    tokenizer = trained_tokenizer(TEXTS, vocabulary)
    made = untrained_language_model(architecture, shape, tokenizer, seed=seed)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in made.model.parameters():
            if values.ndim > 1:
                values.normal_(0.0, 0.4, generator=draws)
    return LanguageModel(made.model.double(), tokenizer, None)


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
