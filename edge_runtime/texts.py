"""Takes texts: the tokenizer that a bundle carries makes of them what its graph is fed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleError, DependencyError, InputError

Tokens = dict[str, npt.NDArray[np.int64]]
_FIELDS = {
    contract.INPUT_IDS: "ids",
    contract.ATTENTION_MASK: "attention_mask",
    contract.TOKEN_TYPE_IDS: "type_ids",
}
"""What each input of a graph is called in an encoding of `tokenizers`."""


def open_tokenizer(file: Path) -> Any:
    """Return the `Tokenizer` of a `tokenizer.json`.

    Raises:
        BundleError: It is no tokenizer.
        DependencyError: `tokenizers` is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise DependencyError("tokenizers", "reading texts", "text") from None
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 - tokenizers raises plain Exception
        reason = " ".join(str(error).split())[:200]
        raise BundleError(
            f"expected a tokenizer in {file}, it does not open ({reason}): export the bundle "
            "again, or update tokenizers"
        ) from None


class TextEncoder:
    """A `tokenizer.json`, which holds its own truncation and padding.

    Args:
        file: The file.
        names: The graph's inputs, of `contract.TOKEN_INPUTS`.

    Raises:
        BundleError: It is no tokenizer.
        DependencyError: `tokenizers` is not installed.
    """

    def __init__(self, file: Path, names: Sequence[str]) -> None:
        self._tokenizer = open_tokenizer(file)
        self._fields = {name: _FIELDS[name] for name in names}

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Return int64 [n, tokens] by the names of the graph's inputs.

        Args:
            texts: n >= 1 of them; what is longer than the model takes is cut, shorter is padded.

        Raises:
            InputError: One is no Unicode text, or has no token at all.
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


class TextIntake:
    """Takes texts; see `edge_runtime.inputs.Intake`.

    Args:
        bundle: The bundle.
        types: numpy type of each of the graph's inputs.

    Raises:
        BundleError: The graph takes something else than tokens, or the tokenizer is missing.
        DependencyError: `tokenizers` is not installed.
    """

    wanted = "texts"

    def __init__(self, bundle: Bundle, types: Mapping[str, str | None]) -> None:
        if not set(types) <= set(_FIELDS) or set(types.values()) != {"int64"}:
            raise BundleError(
                f"expected inputs among {', '.join(_FIELDS)}, all int64, in {bundle.graph}, got "
                f"{dict(types)}: export the bundle again"
            )
        self._encode = TextEncoder(tokenizer_file(bundle), tuple(types))

    def one(self, given: Any) -> npt.NDArray[Any]:
        """Return a single text as a batch of one row."""
        return self.rows([given])

    def rows(self, given: Any) -> npt.NDArray[Any]:
        """Return texts as an object array [n]."""
        return text_rows(given)

    def feeds(self, rows: npt.NDArray[Any]) -> Tokens:
        """Return the tokens."""
        return self._encode(self.rows(rows).tolist())

    def unusable(self, _: npt.NDArray[Any]) -> None:
        """Return None: a text without a token does not come so far."""
        return


def text_rows(given: Any) -> npt.NDArray[Any]:
    """Return texts as an object array [n].

    Raises:
        InputError: They are no texts.
    """
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise InputError(
            f"expected a list of texts, got a {type(given).__name__}: put a single one into a list"
        )
    texts = list(given)
    odd = [type(text).__name__ for text in texts if not isinstance(text, str)]
    if odd or not texts:
        came = f"a {odd[0]}" if odd else "none"
        raise InputError(f"expected texts (str), at least one, got {came}: decode bytes first")
    return np.array(texts, object)


def tokenizer_file(bundle: Bundle) -> Path:
    """Return the file of a bundle's tokenizer.

    Raises:
        BundleError: The bundle has none.
    """
    name = bundle.metadata.extra.get(contract.TOKENIZER)
    file = next((file for file in bundle.others if file.name == name), None)
    if file is None:
        raise BundleError(
            f"expected a tokenizer among the files of {bundle.path}, its metadata name {name!r}: "
            "export the bundle again"
        )
    return file
