"""Reads a bearer token from a file or the environment, again and again."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from edge_runtime.errors import SettingError

TOKEN_FORM: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1: anything else would break the header that carries it."""

_SCHEME: Final = "Bearer "


class Token:
    """A bearer token that may change while the program runs; its value is in no `repr` or error.

    Args:
        file: Where it stands, alone, white space around it aside.
        env: The environment variable that holds it, where there is no file.

    Raises:
        SettingError: It is missing or malformed.
    """

    def __init__(self, file: Path | None, env: str | None) -> None:
        self._file, self._env = file, env
        self._state: tuple[int, ...] | None = None
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._state, text = self._look()
        if text is None or not TOKEN_FORM.fullmatch(text):
            came = "nothing" if not text else "something else"
            raise SettingError(
                f"expected a bearer token in {self.source}, got {came}: write the token there, "
                "and nothing but it"
            )
        self._set(text)

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        return str(self._file) if self._file else f"the environment variable {self._env}"

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the token as a call's metadata; costs a look at the file's date."""
        if self._file is None:
            return self._metadata
        # A file that is just being replaced may be gone or empty: the old token serves till then.
        state, text = self._look()
        if text is not None and TOKEN_FORM.fullmatch(text):
            self._set(text)
            self._state = state
        return self._metadata

    def hide_in(self, text: str) -> str:
        """Return a text of the server's without the token: some repeat what they refuse."""
        for _, value in self._metadata:
            text = text.replace(value.removeprefix(_SCHEME), "[token]")
        return text

    def _look(self) -> tuple[tuple[int, ...] | None, str | None]:
        """Return the file's state and, where that is new, the token."""
        if self._file is None:
            return None, os.environ.get(self._env or "")
        try:
            found = self._file.stat()
            state = (found.st_mtime_ns, found.st_size, found.st_ino)
            if state == self._state:
                return state, None
            return state, self._file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None, None

    def _set(self, text: str) -> None:
        self._metadata = (("authorization", f"{_SCHEME}{text}"),)

    def __repr__(self) -> str:
        return f"Token({self.source})"
