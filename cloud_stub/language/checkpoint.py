"""A causal language model's checkpoint: answers texts with texts, a token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from cloud_stub.backends.backend import FREE, Batch, Outputs, Parameter, Part, Signature, TensorSpec

# MERGEDOC cloud_stub/backends/generation.py: 'What every generator of text has in common on the wire.'
from cloud_stub.errors import RefusedRowsError
from cloud_stub.language.engine import Engine
from edge_runtime import contract, metrics
from edge_runtime.wire.tensors import BYTES
from train.models.generation import encode, refusal
from train.models.language import LanguageModel, open_language_model
from train.models.running_batch import Step

# A megabyte was tokenized in about a second, in which all others wait: what cannot fit is
# not tokenized. Some tokenizers drop characters, white space say: hence the margin.
_MARGIN: Final = 4

MAX_TOKENS: Final = "max_tokens"
"""The parameter of a request that says how many tokens an answer may have."""
_HALF: Final = "\N{REPLACEMENT CHARACTER}"


class LanguageBackend:
    """A causal language model that answers greedily.

    All that is asked takes its steps together, whichever batch it came in; see `Engine`.

    Args:
        path: The checkpoint's folder.
        threads: Threads of the model; 0 leaves it to the library.
        kind: The confidence of an answer, one of `metrics.SEQUENCE_KINDS`.
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
        """Answer texts; see `Backend.infer`."""
        texts: Any = batch.inputs[contract.TEXT]
        most = np.asarray(batch.inputs[MAX_TOKENS])
        prompts = self._encoded(texts)
        rooms = [
            min(int(m), self._lm.context - len(prompt))
            for m, prompt in zip(most, prompts, strict=True)
        ]
        answers = _Tokens(batch.rows, self._lm, self._kind)
        # Without readers a part is a sign of life, and the moment to look whether anybody waits.
        nothing = Part(answers.outputs())
        for steps in self._engine.steps(
            prompts, rooms, batch.is_wanted, is_eager=batch.is_streamed
        ):
            for step in steps:
                answers.put(step)
                if batch.is_streamed or step.ended.any():
                    yield Part(answers.outputs(), frozenset(answers.whole_rows))
            if not batch.is_streamed:
                yield nothing
            elif not steps:
                yield Part(answers.outputs())
        yield answers.outputs()

    def close(self) -> None:
        """Let the engine end."""
        self._engine.close()

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
        counted = [row for row in range(len(texts)) if row not in reasons]
        prompts = encode(self._lm.tokenizer, [texts[row] for row in counted])
        for row, ids in zip(counted, prompts, strict=True):
            if (why := refusal(texts[row], ids, 1, self._lm.context)) is not None:
                reasons[row] = why
        if reasons:
            raise RefusedRowsError(dict(sorted(reasons.items())))
        return [ids or [] for ids in prompts]


class _Tokens:
    """The tokens of a batch's answers, and what they say."""

    def __init__(self, rows: int, lm: LanguageModel, kind: str) -> None:
        self._answers, self._tokenizer, self._kind = Answers(rows), lm.tokenizer, kind
        self._ends = lm.ends
        self._going: dict[int, _Said] = {}
        self._fresh: set[int] = set()
        self.whole_rows: set[int] = set()

    def put(self, step: Step) -> None:
        """Add the next tokens of some rows."""
        for row, token, neg_entropy, logprob in zip(
            step.rows.tolist(),
            step.tokens.tolist(),
            step.neg_entropy.tolist(),
            step.logprob.tolist(),
            strict=True,
        ):
            said = self._going.setdefault(row, _Said())
            said.tokens.append(token)
            said.neg_entropy.append(neg_entropy)
            said.logprob.append(logprob)
            self._fresh.add(row)
        for row in step.rows[step.ended].tolist():
            self._fresh.discard(row)
            self._tell(row, is_whole=True)
            self.whole_rows.add(row)
            del self._going[row]

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


def generation_signature(
    platform: str, max_new_tokens: int, *, is_batched: bool, is_continuous: bool = False
) -> Signature:
    """Return the signature of a generator: texts in, texts and their confidences out.

    Args:
        platform: What runs it.
        max_new_tokens: The most tokens that a request may ask for.
        is_batched: Whether requests of several callers can be answered as one batch.
        is_continuous: Whether a batch joins those that run.
    """
    return Signature(
        takes="text",
        inputs=(TensorSpec(contract.TEXT, BYTES, (FREE,)),),
        outputs=(
            TensorSpec(contract.TEXT, BYTES, (FREE,)),
            TensorSpec(contract.CONFIDENCE, "FP32", (FREE,)),
        ),
        is_batched=is_batched,
        is_continuous=is_continuous,
        platform=platform,
        parameters=(Parameter(MAX_TOKENS, 1, max_new_tokens),),
    )


class Answers:
    """The answers of a batch as far as they are known; at first empty, their confidences NaN.

    Args:
        rows: How many.
    """

    def __init__(self, rows: int) -> None:
        self._texts = np.full(rows, b"", object)
        self._confidence = np.full(rows, np.nan, np.float32)

    def put(self, row: int, text: str, confidence: float, *, is_whole: bool) -> None:
        """Say what is known of one; a character that is not whole yet waits for its other bytes.

        Args:
            row: Which.
            text: All of it so far.
            confidence: Likewise.
            is_whole: Whether nothing follows.
        """
        text = text if is_whole else text.rstrip(_HALF)
        # Half of a surrogate pair, which an upstream's JSON may hold, is no text.
        self._texts[row] = text.encode(errors="replace")
        self._confidence[row] = confidence

    def outputs(self) -> Outputs:
        """Return them as outputs, which later ones leave as they are."""
        return {
            contract.TEXT: self._texts.copy(),
            contract.CONFIDENCE: self._confidence.copy(),
        }
