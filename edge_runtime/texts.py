"""Reads texts, and tokenizes them with the tokenizer of a bundle."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleError, DependencyError, InputError
from edge_runtime.files import one_line

Tokens = dict[str, npt.NDArray[np.int64]]
_FIELDS = {
    contract.INPUT_IDS: "ids",
    contract.ATTENTION_MASK: "attention_mask",
    contract.TOKEN_TYPE_IDS: "type_ids",
}
"""Attribute of a `tokenizers` encoding for each input of a graph."""
_UNKNOWN = "\U0010fffd"


def tokenizer_file(bundle: Bundle) -> Path:
    """Return the file of a bundle's tokenizer, or raise a `BundleError`."""
    name = bundle.metadata.extra.get(contract.TOKENIZER)
    file = next((file for file in bundle.others if file.name == name), None)
    if file is None:
        raise BundleError(
            f"expected a tokenizer among the files of {bundle.path}, its metadata name {name!r}: "
            "export the bundle again"
        )
    return file


def open_tokenizer(file: Path) -> Any:
    """Return the tokenizer of a `tokenizer.json` after `read_as_text`, or raise a `BundleError`."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise DependencyError("tokenizers", "reading texts", "text") from None
    try:
        tokenizer = Tokenizer.from_file(str(file))
        read_as_text(tokenizer)
    except Exception as error:  # noqa: BLE001 - tokenizers raises plain Exception
        raise BundleError(
            f"expected a tokenizer in {file}, it does not open ({one_line(error, 200)}): export "
            "the bundle again, or update tokenizers"
        ) from None
    return tokenizer


def read_as_text(tokenizer: Any) -> None:
    """Make a tokenizer read control tokens that are written in a text, e.g. `</s>`, as plain text.

    A user could otherwise end a prompt, forge a turn, or begin a text twice. Vocabularies that look
    words up whole would still find the token, so there a space parts its name. The tokens that the
    tokenizer itself puts around a text, and added tokens that are not special, stay.

    Args:
        tokenizer: One of `tokenizers`, which is changed; doing so again changes nothing.
    """
    tokenizer.encode_special_tokens = True
    names = _control_tokens_in_texts(tokenizer)
    if names:
        from tokenizers import Regex, normalizers

        within = (f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})" for name in names)
        part = normalizers.Replace(Regex("|".join(within)), " ")
        own = tokenizer.normalizer  # it goes first, as it may write a name in its usual letters
        tokenizer.normalizer = part if own is None else normalizers.Sequence([own, part])


def _control_tokens_in_texts(tokenizer: Any) -> list[str]:
    """Return the names of control tokens that a text can still produce."""

    def tokens(text: str) -> set[int]:
        whole = tokenizer.encode(text, add_special_tokens=False)
        parts = (whole, *whole.overflowing)  # what lies beyond the limit of a text, too
        return {i for p in parts for i, used in zip(p.ids, p.attention_mask, strict=True) if used}

    names = {
        number: token.content
        for number, token in tokenizer.get_added_tokens_decoder().items()
        if token.special and len(token.content) > 1
    }
    # Each for itself would take a second where there are thousands.
    found = tokens(" ".join(names.values())) | tokens("a".join(names.values()))
    found -= tokens(_UNKNOWN)  # what is unknown controls nothing
    return [name for number, name in names.items() if number in found]


class TextEncoder:
    """A `tokenizer.json`, with its own truncation and padding, for some inputs of a graph."""

    def __init__(self, file: Path, names: Sequence[str]) -> None:
        self._tokenizer = open_tokenizer(file)
        self._fields = {name: _FIELDS[name] for name in names}

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Return int64 [n, tokens] by the names of the graph's inputs.

        The n >= 1 texts are cut to the model's limit or padded. A text that is not valid Unicode,
        or has no token, raises an `InputError`.
        """
        try:
            encodings = self._tokenizer.encode_batch_fast(texts)
        except (TypeError, UnicodeError) as error:  # e.g. half of a surrogate pair
            raise InputError(f"expected texts of Unicode characters, got none: {error}") from None
        for row, encoding in enumerate(encodings):
            if not any(encoding.attention_mask):
                raise InputError(
                    f"expected at least one token in a text, got none in row {row} "
                    f"({texts[row][:40]!r}): leave it out"
                )
        return {
            name: np.array([getattr(encoding, field) for encoding in encodings], np.int64)
            for name, field in self._fields.items()
        }


class PromptReader:
    """Reads prompts, which the decoder tokenizes itself; an `InputReader`."""

    description = "prompts"

    def single(self, value: Any) -> npt.NDArray[Any]:
        """Return one text as a batch of one row."""
        return self.batch([value])

    def batch(self, values: Any) -> npt.NDArray[Any]:
        """Return texts as an object array [n], or raise an `InputError` for none or other types."""
        texts = require_texts(values)
        if not texts:
            raise InputError("expected at least one text, got none")
        return np.array(texts, object)

    def feeds(self, rows: npt.NDArray[Any]) -> Tokens:  # noqa: ARG002 - see `InputReader`
        """Return nothing: the decoder feeds its graph step by step."""
        return {}

    def unusable(self, _: npt.NDArray[Any]) -> None:
        """Return None: texts without tokens are refused elsewhere."""
        return


class TextReader(PromptReader):
    """Reads the texts of a classifier; an `InputReader`.

    Args:
        bundle: The bundle.
        dtypes: numpy type of each of the graph's inputs; other inputs than tokens are refused.
    """

    description = "texts"

    def __init__(self, bundle: Bundle, dtypes: Mapping[str, str | None]) -> None:
        if not set(dtypes) <= set(_FIELDS) or set(dtypes.values()) != {"int64"}:
            raise BundleError(
                f"expected inputs among {', '.join(_FIELDS)}, all int64, in {bundle.graph}, got "
                f"{dict(dtypes)}: export the bundle again"
            )
        self._encode = TextEncoder(tokenizer_file(bundle), tuple(dtypes))
        bundle.require_unchanged()

    def feeds(self, rows: npt.NDArray[Any]) -> Tokens:
        """Return the tokens."""
        return self._encode(self.batch(rows).tolist())


def require_texts(values: Any, noun: str = "texts") -> list[str]:
    """Return texts as a list, or raise an `InputError` that calls them by `noun`."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InputError(
            f"expected a list of {noun}, got a {type(values).__name__}: put a single one into a "
            "list"
        )
    texts: list[Any] = list(values)
    wrong = [type(text).__name__ for text in texts if not isinstance(text, str)]
    if wrong:
        raise InputError(f"expected {noun} (str), got a {wrong[0]}: decode bytes first")
    return texts
