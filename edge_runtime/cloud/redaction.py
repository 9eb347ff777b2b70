"""Removes secrets from foreign texts: some servers repeat a token that they refuse."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from typing import Final

from edge_runtime.files import one_line

_MOST_HELD: Final = 256
_LOCK: Final = threading.Lock()
# The values outlive their readers: a server may still repeat a token after its renewal.
_HELD: Final[OrderedDict[str, re.Pattern[str]]] = OrderedDict()


def hold(secret: str) -> None:
    """Remember a secret, so that no message of this process shows it; of many, the latest 256."""
    with _LOCK:
        _HELD[secret] = re.compile("".join(map(_forms, secret)))
        _HELD.move_to_end(secret)
        if len(_HELD) > _MOST_HELD:
            _HELD.popitem(last=False)


def foreign(text: object, limit: int | None = None) -> str:
    """Return a text from the other end of a link on one line, cleaned and without secrets."""
    line = one_line(text)
    with _LOCK:
        patterns = sorted(_HELD.items(), key=lambda held: -len(held[0]))  # one may contain another
    for _, pattern in patterns:
        line = pattern.sub("[token]", line)
    return line[:limit]


def _forms(character: str) -> str:
    """Return a pattern of a character as it is, escaped as in JSON, or as in an URL."""
    plain = re.escape(character)
    if character.isalnum():
        return plain
    code = f"{ord(character):02x}"
    return rf"(?:\\?{plain}|(?i:%{code}|\\u00{code}))"
