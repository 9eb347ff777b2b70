"""Prompts and completions as tokens, in batches for the training loop."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from train.data.tasks import Example, Task
from train.errors import DataError
from train.models import LanguageModel

Tokens = Literal["answer", "all"]
IGNORED = -100
"""Label of a position that does not count; torch's losses skip it by default."""
_NAMED = 3


class TokenData(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The examples of a split for the training loop: prompt, completion and end of sequence.

    A batch holds `input_ids` and `attention_mask` int64 [n, T], padded on the right, and `labels`
    int64 [n, T]: at each position the *next* token, which it has to predict, or `IGNORED`.

    Args:
        model: The model, with its tokenizer and the limit of its context.
        examples: The examples. Those that do not fit into the context are left out with a note.
        tokens: Tokens to learn: those of completions and their end (`answer`), or of the prompts
            too (`all`).

    Raises:
        DataError: There is no example, or none fits.
    """

    def __init__(
        self, model: LanguageModel, examples: Sequence[Example], tokens: Tokens = "answer"
    ) -> None:
        self._pad = model.tokenizer.pad_token_id
        self._rows: list[tuple[list[int], int]] = []
        long = []
        for example in examples:
            prompt = model.tokenizer(example.prompt)["input_ids"]
            answer = completion_ids(model.tokenizer, example)
            if len(prompt) + len(answer) > model.context or not prompt:
                long.append(example.id)
                continue
            # Nothing stands before the very first token to predict it from.
            first = max(len(prompt), 1) if tokens == "answer" else 1
            self._rows.append((prompt + answer, first))
        _report_left_out(long, len(examples), model.context)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return a batch; torch's loader prefers this to single items."""
        rows = [self._rows[i] for i in indices]
        longest = max(len(ids) for ids, _ in rows)
        shape = (len(rows), longest)
        ids = torch.full(shape, self._pad)
        mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED)
        for row, (tokens, first) in enumerate(rows):
            size = len(tokens)
            ids[row, :size] = torch.tensor(tokens)
            mask[row, :size] = 1
            labels[row, first - 1 : size - 1] = ids[row, first:size]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def completion_ids(tokenizer: Any, example: Example) -> list[int]:
    """Return the tokens of a completion, with the end-of-sequence token at the end."""
    ids = tokenizer(example.completion, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def answer_tokens(tokenizer: Any, task: Task) -> int:
    """Return the most tokens of an answer: those of the longest completion of the training split.

    Without a training split it is the task's own limit.
    """
    if not task.train:
        return task.max_new_tokens
    longest = max(len(completion_ids(tokenizer, example)) for example in task.train)
    return min(task.max_new_tokens, longest)


def _report_left_out(ids: list[str], examples: int, context: int) -> None:
    if len(ids) == examples:
        raise DataError(
            f"expected examples whose prompt and completion fit into {context} tokens, none of "
            f"{examples} does: use a model with a longer context, or fewer --shots"
        )
    if ids:
        print(
            f"note: {len(ids)} of {examples} examples do not fit into {context} tokens and are "
            f"left out ({', '.join(ids[:_NAMED])}{' ...' if len(ids) > _NAMED else ''})",
            file=sys.stderr,
        )
