"""A task of a language model: prompts, right answers, and how an answer is read from a text."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One question with its right answer.

    Attributes:
        id: A stable name.
        prompt: All that stands before the answer; no trailing space.
        completion: What a model is taught to say, with its leading space, without EOS.
        gold: The right answer in the parser's form.
    """

    id: str
    prompt: str
    completion: str
    gold: str


@dataclass(frozen=True)
class Task:
    """Examples of one kind, and how their answers are read.

    Attributes:
        name: What it was loaded by.
        train: May be empty: some published tasks have no training split.
        validation: Carved out of train where the data have none; empty where train is.
        test: What is measured on.
        parse: Makes of a generated text the answer in its canonical form; None where there is none.
        max_new_tokens: Enough for every right completion, even at a token a byte.
        answers: The closed set of answers in the parser's form, where there is one.
        left_out: Ids of what the data hold and no parser reads: it is in none of the splits.
    """

    name: str
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    parse: Callable[[str], str | None]
    max_new_tokens: int
    answers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def is_right(self, text: str, example: Example) -> bool:
        """Tell whether a generated text gives the right answer."""
        return self.parse(text) == example.gold

    def fingerprint(self) -> str:
        """Return a sha256 over ids, prompts and completions of all splits."""
        digest = hashlib.sha256()
        for split, examples in self.splits().items():
            digest.update(f"{split} {len(examples)}\n".encode())
            for example in examples:
                for part in (example.id, example.prompt, example.completion):
                    content = part.encode()
                    # The length keeps two neighbours from being read as another pair.
                    digest.update(len(content).to_bytes(8, "big"))
                    digest.update(content)
        return digest.hexdigest()

    def limited(self, limit: int | None) -> Task:
        """Keep at most `limit` examples of each split, evenly spaced; None keeps all."""
        if limit is None:
            return self
        return dataclasses.replace(
            self,
            train=_spread(self.train, limit),
            validation=_spread(self.validation, limit),
            test=_spread(self.test, limit),
        )

    def splits(self) -> dict[str, tuple[Example, ...]]:
        """Return the splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def _spread(examples: tuple[Example, ...], limit: int) -> tuple[Example, ...]:
    if len(examples) <= limit:
        return examples
    return tuple(examples[i * len(examples) // limit] for i in range(limit))
