"""Independent references for generated answers: transformers' `generate`, and float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax
from transformers import GenerationConfig

from edge_runtime import metrics
from train.models import LanguageModel

Tokens = tuple[int, ...]
_ROWS = 50


def answer_greedily(model: LanguageModel, prompts: Sequence[str], limit: int) -> list[Tokens]:
    """Return the tokens of transformers' own `generate`, the end-of-sequence token included.

    The batches keep the order of the prompts, short next to long, and are padded on the left.

    Args:
        model: The model in float32.
        prompts: The texts.
        limit: Most tokens of an answer.
    """
    tokenizer, answers = model.tokenizer, []
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    for start in range(0, len(prompts), _ROWS):
        batch = list(prompts[start : start + _ROWS])
        inputs = tokenizer(batch, padding=True, padding_side="left", return_tensors="pt")
        with torch.inference_mode():
            outputs = model.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                generation_config=config,
            )
        new = outputs[:, inputs["input_ids"].shape[1] :].tolist()
        answers += [_cut(row, tokenizer.eos_token_id) for row in new]
    return answers


def _cut(row: list[int], end: int) -> Tokens:
    return tuple(row[: row.index(end) + 1] if end in row else row)


class ExactModel:
    """A model in float64 that reads a prompt and its whole answer at once, without a cache.

    transformers keeps a few parts in float32 in any case: norms, the angles of positions, and the
    softmax of attention where it computes that itself.

    Args:
        model: The model; its weights become float64.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model: Any = model.model.double()
        self._encode: Any = model.tokenizer
        self._read: dict[tuple[str, Tokens], npt.NDArray[np.float64]] = {}

    def confidences(self, prompt: str, answer: Tokens, kinds: Sequence[str]) -> dict[str, float]:
        """Return an answer's confidences of these kinds, computed by numpy from the logits."""
        log_p = self._log_probabilities(prompt, answer)
        entropies = (np.exp(log_p) * log_p).sum(axis=-1)
        chosen = log_p[np.arange(len(answer)), list(answer)]
        return {
            kind: float(
                metrics.sequence_confidence(
                    kind,
                    neg_entropy=entropies,
                    logprob=chosen,
                    counted=np.ones(len(answer), np.bool_),
                )
            )
            for kind in kinds
        }

    def gap(self, prompt: str, common: Tokens) -> float:
        """Return the difference between the logits of the two likeliest tokens after `common`."""
        log_p = self._log_probabilities(prompt, (*common, 0))[-1]
        second, first = np.sort(log_p)[-2:]
        return float(first - second)

    def _log_probabilities(self, prompt: str, answer: Tokens) -> npt.NDArray[np.float64]:
        """Return the log-probabilities at each token of an answer, float64 [T, V]."""
        key = prompt, answer[:-1]
        if key not in self._read:
            ids = self._encode(prompt)["input_ids"]
            with torch.inference_mode():
                logits = self._model(input_ids=torch.tensor([[*ids, *answer[:-1]]])).logits[0]
            self._read[key] = log_softmax(logits[len(ids) - 1 :].double().numpy(), axis=-1)
        return self._read[key]


class Split(NamedTuple):
    """The place where two answers to one prompt part.

    Attributes:
        prompt: The prompt.
        common: The tokens before that place.
    """

    prompt: str
    common: Tokens


def find_splits(
    prompts: Sequence[str], ours: Sequence[Tokens], theirs: Sequence[Tokens]
) -> list[Split]:
    """Return the first difference of each pair of answers that differ."""
    splits = []
    for prompt, one, other in zip(prompts, ours, theirs, strict=True):
        if one != other:
            pairs = list(zip(one, other, strict=False))
            at = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
            splits.append(Split(prompt, one[:at]))
    return splits
