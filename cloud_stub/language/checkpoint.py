"""A causal language model's checkpoint: answers texts with texts, one token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from cloud_stub.backends.backend import Batch, Outputs, Part
from cloud_stub.errors import RefusedRowsError
from cloud_stub.language.answers import MAX_TOKENS, Answers, generation_signature
from cloud_stub.language.engine import Engine
from edge_runtime import contract, metrics
from train.models.generation import encode, refusal
from train.models.language import LanguageModel, open_language_model
from train.models.running_batch import Step

# Tokenizing a megabyte took about a second, in which all others wait: a prompt that cannot fit is
# not tokenized. Some tokenizers drop characters, white space for example: hence the margin.
_MARGIN: Final = 4


class LanguageBackend:
    """A causal language model that decodes greedily.

    All answers advance together, whichever batch they belong to; see `Engine`.

    Args:
        path: The checkpoint's folder.
        threads: Threads of the model; 0 leaves the choice to the library.
        kind: Kind of an answer's confidence, one of `metrics.SEQUENCE_KINDS`.
        max_new_tokens: The most tokens of an answer.
        max_rows: The most answers at once.

    Raises:
        CheckpointError: The folder holds no language model that can be opened.
    """

    labels: tuple[str, ...] = ()

    def __init__(
        self, path: Path, threads: int, *, kind: str, max_new_tokens: int, max_rows: int
    ) -> None:
        # Every call may be a batch of its own: they wait for the engine.
        self.workers = max_rows
        self._lm = open_language_model(path)
        self._kind = kind
        self.signature = generation_signature(
            "gatekeeper_language_model", max_new_tokens, is_batched=True, is_continuous=True
        )
        longest = max(map(len, self._lm.tokenizer.get_vocab()))
        self._most_characters = _MARGIN * longest * self._lm.context
        if torch.cuda.is_available():
            self._lm.model.to("cuda")
        elif threads:
            torch.set_num_threads(threads)
        self._engine = Engine(self._lm)

    def infer(self, batch: Batch) -> Iterator[Outputs | Part]:
        """Generate the answers to texts."""
        texts: Any = batch.inputs[contract.TEXT]
        most = np.asarray(batch.inputs[MAX_TOKENS])
        prompts = self._encode(texts)
        limits = [
            min(int(m), self._lm.context - len(prompt))
            for m, prompt in zip(most, prompts, strict=True)
        ]
        answers = _TokenAnswers(batch.rows, self._lm, self._kind)
        # Without readers a part only shows that the engine is alive, and is the moment to check
        # whether anyone is still waiting.
        heartbeat = Part(answers.outputs())
        for steps in self._engine.steps(
            prompts, limits, batch.is_wanted, is_eager=batch.is_streamed
        ):
            for step in steps:
                answers.put(step)
                if batch.is_streamed or step.ended.any():
                    yield Part(answers.outputs(), frozenset(answers.whole_rows))
            if not batch.is_streamed:
                yield heartbeat
            elif not steps:
                yield Part(answers.outputs())
        yield answers.outputs()

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close()

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of the prompts.

        Raises:
            RefusedRowsError: Some cannot be answered.
        """
        reasons = {
            row: f"the prompt has {len(text)} characters, far more than the context's "
            f"{self._lm.context} tokens can hold"
            for row, text in enumerate(texts)
            if len(text) > self._most_characters
        }
        short = [row for row in range(len(texts)) if row not in reasons]
        prompts = encode(self._lm.tokenizer, [texts[row] for row in short])
        for row, ids in zip(short, prompts, strict=True):
            if (why := refusal(texts[row], ids, 1, self._lm.context)) is not None:
                reasons[row] = why
        if reasons:
            raise RefusedRowsError(dict(sorted(reasons.items())))
        return [ids or [] for ids in prompts]


class _TokenAnswers:
    """The answers of a batch as tokens, texts and confidences."""

    def __init__(self, rows: int, lm: LanguageModel, kind: str) -> None:
        self._answers, self._tokenizer, self._kind = Answers(rows), lm.tokenizer, kind
        self._ends = lm.ends
        self._sequences: dict[int, _Sequence] = {}
        self._changed: set[int] = set()
        self.whole_rows: set[int] = set()

    def put(self, step: Step) -> None:
        """Add the next tokens of some rows."""
        columns = (step.rows, step.tokens, step.neg_entropy, step.logprob)
        for row, token, neg_entropy, logprob in zip(*(c.tolist() for c in columns), strict=True):
            sequence = self._sequences.setdefault(row, _Sequence())
            sequence.tokens.append(token)
            sequence.neg_entropy.append(neg_entropy)
            sequence.logprob.append(logprob)
            self._changed.add(row)
        for row in step.rows[step.ended].tolist():
            self._changed.discard(row)
            self._update(row, is_whole=True)
            self.whole_rows.add(row)
            del self._sequences[row]

    def outputs(self) -> Outputs:
        """Return the answers so far as outputs."""
        for row in self._changed:
            self._update(row, is_whole=False)
        self._changed.clear()
        return self._answers.outputs()

    def _update(self, row: int, *, is_whole: bool) -> None:
        sequence = self._sequences[row]
        # Not every tokenizer treats its end tokens as special tokens.
        tokens = [token for token in sequence.tokens if token not in self._ends]
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        confidence = metrics.sequence_confidence(
            self._kind,
            neg_entropy=sequence.neg_entropy,
            logprob=sequence.logprob,
            counted=np.ones(len(sequence.tokens), bool),
        )
        self._answers.put(row, text, float(confidence), is_whole=is_whole)


@dataclass(frozen=True)
class _Sequence:
    tokens: list[int] = field(default_factory=list)
    neg_entropy: list[float] = field(default_factory=list)
    logprob: list[float] = field(default_factory=list)
