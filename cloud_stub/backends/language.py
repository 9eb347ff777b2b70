"""A causal language model's checkpoint: answers texts with texts, a token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from cloud_stub.backends.backend import Batch, Outputs, Part
from cloud_stub.backends.generation import MAX_TOKENS, Answers, generation_signature
from cloud_stub.errors import RefusedRowsError
from edge_runtime import contract, metrics
from train.models.generation import encode, refusal, rows_that_fit
from train.models.language import LanguageModel, open_language_model
from train.models.stepping import Step

# A megabyte was tokenized in about a second, in which all others wait: what cannot fit is
# not tokenized. Some tokenizers drop characters, white space say: hence the margin.
_MARGIN: Final = 4


class LanguageBackend:
    """A causal language model that answers greedily.

    All rows of a batch take a step together; a row that ended, or whose caller left, takes none.

    Args:
        path: The checkpoint's folder.
        threads: Threads of the model; 0 leaves it to the library.
        kind: The confidence of an answer, one of `metrics.SEQUENCE_KINDS`.
        max_new_tokens: The most tokens of an answer.

    Raises:
        CheckpointError: The folder holds no language model that can be opened.
    """

    workers = 1
    labels: tuple[str, ...] = ()

    def __init__(self, path: Path, threads: int, *, kind: str, max_new_tokens: int) -> None:
        self._lm = open_language_model(path)
        self._kind = kind
        self.signature = generation_signature(
            "gatekeeper_language_model", max_new_tokens, is_batched=True
        )
        longest = max(map(len, self._lm.tokenizer.get_vocab()))
        self._most_characters = _MARGIN * longest * self._lm.context
        if torch.cuda.is_available():
            self._lm.model.to("cuda")
        elif threads:
            torch.set_num_threads(threads)

    def infer(self, batch: Batch) -> Iterator[Outputs | Part]:
        """Answer texts; see `Backend.infer`."""
        texts: Any = batch.inputs[contract.TEXT]
        most = np.asarray(batch.inputs[MAX_TOKENS])
        prompts = self._encoded(texts)
        rooms = [
            min(int(m), self._lm.context - len(prompt))
            for m, prompt in zip(most, prompts, strict=True)
        ]
        answers = _Tokens(batch.rows, self._lm, self._kind)
        # Without readers a part is only the moment in which to look whether anybody waits.
        nothing = Part(answers.outputs())
        for group in _groups(self._lm, prompts, rooms):
            for step in self._steps(group, prompts, rooms, batch):
                answers.put(group, step)
                if batch.is_streamed or step.ended.any():
                    yield Part(answers.outputs(), frozenset(answers.whole_rows))
                else:
                    yield nothing
        yield answers.outputs()

    def close(self) -> None:
        """Nothing is held that the process would not let go of."""

    def _steps(
        self, group: list[int], prompts: list[list[int]], rooms: list[int], batch: Batch
    ) -> Iterator[Step]:
        return self._lm.steps(
            [prompts[row] for row in group],
            [rooms[row] for row in group],
            lambda i: batch.is_wanted(group[i]),
        )

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
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
        if reasons:
            raise RefusedRowsError(reasons)
        encoded, prompts = encode(self._lm.tokenizer, texts), []
        for row, (text, ids) in enumerate(zip(texts, encoded, strict=True)):
            if (why := refusal(text, ids, 1, self._lm.context)) is not None:
                reasons[row] = why
            prompts.append(ids or [])
        if reasons:
            raise RefusedRowsError(reasons)
        return prompts


class _Tokens:
    """The tokens of a batch's answers, and what they say."""

    def __init__(self, rows: int, lm: LanguageModel, kind: str) -> None:
        self._answers, self._tokenizer, self._kind = Answers(rows), lm.tokenizer, kind
        self._ends = lm.ends
        self._going: dict[int, _Said] = {}
        self._fresh: set[int] = set()
        self.whole_rows: set[int] = set()

    def put(self, group: list[int], step: Step) -> None:
        """Add the next tokens of some rows of a group."""
        for i, token, neg_entropy, logprob in zip(
            step.rows.tolist(),
            step.tokens.tolist(),
            step.neg_entropy.tolist(),
            step.logprob.tolist(),
            strict=True,
        ):
            said = self._going.setdefault(group[i], _Said())
            said.tokens.append(token)
            said.neg_entropy.append(neg_entropy)
            said.logprob.append(logprob)
            self._fresh.add(group[i])
        for i in step.rows[step.ended].tolist():
            self._fresh.discard(group[i])
            self._tell(group[i], is_whole=True)
            self.whole_rows.add(group[i])
            del self._going[group[i]]

    def outputs(self) -> Outputs:
        """Return what is known as outputs."""
        for row in self._fresh:
            self._tell(row, is_whole=False)
        self._fresh.clear()
        return self._answers.outputs()

    def _tell(self, row: int, *, is_whole: bool) -> None:
        said = self._going[row]
        # Not every tokenizer knows its ends for special tokens.
        tokens = [token for token in said.tokens if token not in self._ends]
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        confidence = metrics.sequence_confidence(
            self._kind,
            neg_entropy=said.neg_entropy,
            logprob=said.logprob,
            counted=np.ones(len(said.tokens), bool),
        )
        self._answers.put(row, text, float(confidence), is_whole=is_whole)


@dataclass(frozen=True)
class _Said:
    tokens: list[int] = field(default_factory=list)
    neg_entropy: list[float] = field(default_factory=list)
    logprob: list[float] = field(default_factory=list)


def _groups(
    lm: LanguageModel, prompts: Sequence[list[int]], rooms: Sequence[int]
) -> Iterator[list[int]]:
    """Yield rows to be answered together: alike in length, and no more than memory should hold."""
    rows = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    while rows:
        # The longest first: its length says how many are held beside it.
        width = len(prompts[rows[-1]]) + max(rooms[row] for row in rows)
        size = rows_that_fit(lm.vocabulary, width)
        rows, group = rows[:-size], rows[-size:]
        yield group
