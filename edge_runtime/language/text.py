"""Tokenizes prompts, groups them into batches, and decodes generated tokens piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from edge_runtime.errors import InputError
from edge_runtime.inputs.texts import no_panic, open_tokenizer

EMPTY: Final = "the prompt is empty"
NO_TEXT: Final = "the prompt is not valid text: it holds half of a surrogate pair"
FAILED: Final = "the tokenizer fails on the prompt"
NOTHING: Final = "the prompt has no token"
MOST_BATCH_TOKENS: Final = 1 << 15
"""The most tokens of a batch of several prompts, with their answers: every layer caches them."""
_MAX_LENGTH_RATIO: Final = 2  # of the longest to the shortest prompt of a batch
_BROKEN: Final = "\N{REPLACEMENT CHARACTER}"


class PromptTokenizer:
    """The tokenizer of a bundle, without its truncation and padding."""

    def __init__(self, file: Path) -> None:
        self._tokenizer = open_tokenizer(file)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, prompt: str, context: int) -> tuple[list[int], str | None]:
        """Return a prompt's tokens, and the reason why it cannot be answered or None."""
        if not prompt.strip():
            return [], EMPTY
        try:
            with no_panic():
                encoding = self._tokenizer.encode(prompt)
        except (TypeError, UnicodeError):
            return [], NO_TEXT
        except InputError:
            return [], FAILED
        tokens = list(encoding.ids)
        if all(encoding.special_tokens_mask):
            return tokens, NOTHING
        if len(tokens) >= context:
            return tokens, (
                f"the prompt has {len(tokens)} tokens: the context of {context} has no room for an "
                "answer"
            )
        return tokens, None

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        with no_panic():
            return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


def batches(
    rooms: Mapping[int, tuple[int, int]], most: int, *, most_tokens: int = MOST_BATCH_TOKENS
) -> Iterator[list[int]]:
    """Yield batches of prompts that are similar in length and have answers of equal limits.

    A row that has ended stays in its batch, so the further tokens must fit its context too.

    Args:
        rooms: For each prompt, its number of tokens and the most tokens of its answer.
        most: Most prompts of a batch; batches of long prompts are smaller.
        most_tokens: Most tokens of a batch with several prompts, with their answers.
    """
    batch: list[int] = []
    held = 0
    for row in sorted(rooms, key=lambda row: (rooms[row][1], rooms[row][0])):
        prompt, room = rooms[row]
        held = max(held, prompt + room)
        is_full = len(batch) == most or (len(batch) + 1) * held > most_tokens
        first, first_room = rooms[batch[0]] if batch else (prompt, room)
        if batch and (is_full or room != first_room or prompt > _MAX_LENGTH_RATIO * first):
            yield batch
            batch, held = [], prompt + room
        batch.append(row)
    if batch:
        yield batch


class TextPieces:
    """Returns the text that each further token adds.

    A character may take several tokens, and the text of a token may depend on the one before it (a
    space, for example), so each token is decoded together with those of the previous piece.
    Incomplete characters are held back until the next complete one or the end.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []  # those of the last piece, then those held back
        self._emitted = 0  # number of the first kind
        self._before = ""

    def add(self, token: int) -> str:
        """Return the text that the token completes, often none."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if text.endswith(_BROKEN) or len(text) <= len(self._before):
            return ""
        piece = text[len(self._before) :]
        self._tokens = self._tokens[self._emitted :]
        self._emitted = len(self._tokens)
        self._before = self._decode(self._tokens)
        return piece

    def rest(self) -> str:
        """Return the text that was held back, at the end."""
        return self._decode(self._tokens)[len(self._before) :]


class StopStrings:
    """Passes on a text up to its first stop string; without stop strings all of it, at once."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.is_found = False

    def add(self, piece: str) -> str:
        """Return the text that may pass: no stop string, nor the beginning of one."""
        if self.is_found:
            return ""
        self._held += piece
        places = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        self.is_found = bool(places)
        end = min(places) if places else len(self._held) - self._count_partial()
        passed, self._held = self._held[:end], self._held[end:]
        return passed

    def rest(self) -> str:
        """Return the text that was held back, at the end; nothing after a stop string."""
        passed, self._held = ("" if self.is_found else self._held), ""
        return passed

    def _count_partial(self) -> int:
        """Return the number of last characters that may be the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=0)
        for count in range(min(longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-count:]) for stop in self._stops):
                return count
        return 0
