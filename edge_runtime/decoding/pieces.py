"""Text out of tokens as they come: whole characters, and nothing that may be a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BROKEN = "\N{REPLACEMENT CHARACTER}"


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
