"""Makes tokens of prompts and texts of tokens, and says which prompts cannot be answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edge_runtime.errors import InputError
from edge_runtime.texts import open_tokenizer

# MERGEDOC edge_runtime/decoding/pieces.py: 'Text out of tokens as they come: whole characters, and nothing that may be a stop string.'

EMPTY: Final = "the prompt is empty"
NO_TEXT: Final = "the prompt is not valid text: it holds half of a surrogate pair"
NOTHING: Final = "the prompt has no token"
_TOKENS: Final = 1 << 15  # of a batch, at most: they are held in every layer
_UNEVEN: Final = 2  # times the shortest prompt is the longest of its batch

_BROKEN = "\N{REPLACEMENT CHARACTER}"


class PromptTokenizer:
    """The tokenizer of a bundle, without the cutting and filling it may hold.

    Args:
        file: Its `tokenizer.json`.

    Raises:
        BundleError: It is no tokenizer.
        DependencyError: `tokenizers` is not installed.
    """

    def __init__(self, file: Path) -> None:
        self._tokenizer = open_tokenizer(file)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, prompt: str, context: int) -> tuple[list[int], str | None]:
        """Return a prompt's tokens and why it cannot be answered, None where it can.

        Args:
            prompt: The text.
            context: The most tokens of prompt and answer together.
        """
        if not prompt.strip():
            return [], EMPTY
        try:
            encoding = self._tokenizer.encode(prompt)
        except (TypeError, UnicodeError):
            return [], NO_TEXT
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
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


def require_texts(prompts: Sequence[str]) -> list[str]:
    """Return prompts as a list.

    Raises:
        InputError: They are a single one, or not all of them are texts.
    """
    if isinstance(prompts, (str, bytes)):
        raise InputError(
            f"expected a list of prompts, got a {type(prompts).__name__}: put a single one into a "
            "list"
        )
    listed: list[Any] = list(prompts)
    odd = [type(prompt).__name__ for prompt in listed if not isinstance(prompt, str)]
    if odd:
        raise InputError(f"expected prompts (str), got a {odd[0]}: decode bytes first")
    return listed


def batches(rooms: Mapping[int, tuple[int, int]], most: int) -> Iterator[list[int]]:
    """Yield prompts to be answered together, alike in length and with equally long answers.

    A row that has ended stays in its batch, whose further tokens must fit into its context.

    Args:
        rooms: By prompt: its tokens, and those that its answer may have.
        most: The most prompts of a batch; long ones are fewer.
    """
    batch: list[int] = []
    held = 0
    for row in sorted(rooms, key=lambda row: (rooms[row][1], rooms[row][0])):
        prompt, room = rooms[row]
        held = max(held, prompt + room)
        is_full = len(batch) == most or (len(batch) + 1) * held > _TOKENS
        first, first_room = rooms[batch[0]] if batch else (prompt, room)
        if batch and (is_full or room != first_room or prompt > _UNEVEN * first):
            yield batch
            batch, held = [], prompt + room
        batch.append(row)
    if batch:
        yield batch


class TextPieces:
    """Says what each further token adds to a text.

    A character may take several tokens, and what a token says may depend on the one before it (a
    space, for example), so each is decoded together with those of the piece before. Bytes that are
    no character are said once it is certain that none follows: with the next whole one, or at the
    end.

    Args:
        decode: Returns the text of tokens.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []  # of the last piece that was said, and those not said yet
        self._said = 0  # of them
        self._before = ""

    def add(self, token: int) -> str:
        """Return what the token completes, often nothing."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if text.endswith(_BROKEN) or len(text) <= len(self._before):
            return ""
        piece = text[len(self._before) :]
        self._tokens, self._said = self._tokens[self._said :], len(self._tokens) - self._said
        self._before = self._decode(self._tokens)
        return piece

    def rest(self) -> str:
        """Return what was held back, at the end."""
        return self._decode(self._tokens)[len(self._before) :]


class StopStrings:
    """Passes a text on up to the first stop string in it.

    Args:
        stops: The strings; without any, everything passes at once.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.is_found = False

    def add(self, piece: str) -> str:
        """Return what can be said: no stop string, nor the beginning of one."""
        if self.is_found:
            return ""
        self._held += piece
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        self.is_found = bool(found)
        keep = min(found) if found else len(self._held) - self._begun()
        said, self._held = self._held[:keep], self._held[keep:]
        return said

    def rest(self) -> str:
        """Return what was held back, at the end; nothing behind a stop string."""
        said, self._held = ("" if self.is_found else self._held), ""
        return said

    def _begun(self) -> int:
        """Return how many last characters may be the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=0)
        for count in range(min(longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-count:]) for stop in self._stops):
                return count
        return 0
