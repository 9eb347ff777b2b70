"""Reads texts, and tokenizes them with the tokenizer of a bundle."""

from __future__ import annotations

import base64
import contextlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleError, DependencyError, InputError, SettingError
from edge_runtime.files import one_line
from edge_runtime.inputs.pictures import read_input
from edge_runtime.inputs.values import is_encoded, kind_of
from edge_runtime.reading import parse_json, read_bytes

Tokens = dict[str, npt.NDArray[np.int64]]
_FIELDS = {
    contract.INPUT_IDS: "ids",
    contract.ATTENTION_MASK: "attention_mask",
    contract.TOKEN_TYPE_IDS: "type_ids",
}
"""Attribute of a `tokenizers` encoding for each input of a graph."""
_UNKNOWN = "\U0010fffd"
_MOST_BYTES = 1 << 28  # of a tokenizer.json; that of 262,000 tokens has 33 MB
# The parts of a tokenizer whose work grows with the text alone, or by a factor that is checked.
_PARTS = {
    "normalizer": "Sequence BertNormalizer ByteLevel Lowercase NFC NFD NFKC NFKD Nmt Precompiled "
    "Prepend Replace Strip StripAccents",
    "pre_tokenizer": "Sequence BertPreTokenizer ByteLevel CharDelimiterSplit Digits FixedLength "
    "Metaspace Punctuation Split UnicodeScripts Whitespace WhitespaceSplit",
    "post_processor": "Sequence BertProcessing ByteLevel RobertaProcessing TemplateProcessing",
    "decoder": "Sequence BPEDecoder ByteFallback ByteLevel CTC Fuse Metaspace Replace Strip "
    "WordPiece",
}
_INNER = ("normalizers", "pretokenizers", "processors", "decoders")
_MOST_PARTS = 64
_MOST_GROWTH = 64
"""Factor by which all parts of one kind together may lengthen a text."""
_PAIR = 2
_MOST_PADDING = 1 << 17  # tokens
_MOST_WORD = 1000  # WordPiece's work is the square of a word's length


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
        with no_panic(plain=False):
            tokenizer = Tokenizer.from_buffer(read_bytes(file, limit=_MOST_BYTES))
            require_bounded(tokenizer)
            read_as_text(tokenizer)
    except Exception as error:  # noqa: BLE001 - tokenizers raises plain Exception
        raise BundleError(
            f"expected a tokenizer in {file}, it does not open ({one_line(error, 200)}): export "
            "the bundle again, or update tokenizers"
        ) from None
    return tokenizer


@contextlib.contextmanager
def no_panic(*, plain: bool = True) -> Iterator[None]:
    """Turn a panic of `tokenizers`, which no `except Exception` holds, into an `InputError`.

    Args:
        plain: Turn an `Exception` of no class of its own too: the library raises it for a text with
            words that its model has no token for, not even the unknown one.
    """
    try:
        yield
    except BaseException as error:
        is_plain = plain and type(error) is Exception
        if not is_plain and type(error).__name__ != "PanicException":
            raise
        raise InputError(
            f"expected a text that the tokenizer can read, it failed ({one_line(error, 100)}): "
            "leave the text out, or update tokenizers"
        ) from None


def require_bounded(tokenizer: Any) -> None:
    """Raise a `ValueError` for a tokenizer whose work or tokens grow out of all proportion.

    Args:
        tokenizer: One of `tokenizers`, from a file of unknown origin, before its first text.
    """
    for kind, allowed in _PARTS.items():
        part = getattr(tokenizer, kind)
        if part is None:
            continue
        found = list(_parts(parse_json(part.__getstate__().decode())))
        unknown = {str(one.get("type")) for one in found} - set(allowed.split())
        if unknown:
            raise ValueError(f"its {kind} is a {min(unknown)}, which is not known here")
        if len(found) > _MOST_PARTS:
            raise ValueError(f"its {kind} has {len(found)} parts, more than {_MOST_PARTS}")
        if math.prod(map(_growth, found)) > _MOST_GROWTH:
            raise ValueError(f"its {kind} lengthens a text more than {_MOST_GROWTH} times")
    padding = tokenizer.padding or {}
    if max(padding.get("length") or 0, padding.get("pad_to_multiple_of") or 0) > _MOST_PADDING:
        raise ValueError(f"it pads to more than {_MOST_PADDING} tokens")
    if getattr(tokenizer.model, "max_input_chars_per_word", 0) > _MOST_WORD:
        raise ValueError(f"it looks for words of more than {_MOST_WORD} characters")


def _parts(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield part
    for name in _INNER:
        for inner in part.get(name, ()):
            yield from _parts(inner)


def _growth(part: dict[str, Any]) -> float:
    """Return the most by which a part lengthens a text; a part that cannot be is infinite."""
    match part:
        case {"type": "Replace", "content": content, "pattern": {"String": text}} if text:
            return math.ceil(max(1, len(content)) / len(text))
        # A regular expression may match between two letters.
        case {"type": "Replace", "content": content} | {"type": "Prepend", "prepend": content}:
            return 1 + len(content)
        case {"type": "ByteLevel"}:
            return 2
        case {"type": "Precompiled", "precompiled_charsmap": packed}:
            content = base64.b64decode(packed or "")
            texts = content[4 + int.from_bytes(content[:4], "little") :].split(b"\0")
            return max(2, max(map(len, texts)) // 8)  # the longest of Unicode's own has 33 bytes
        case {"type": "TemplateProcessing", "single": single, "pair": pair}:
            is_once = _count_texts(single) <= 1 and _count_texts(pair) <= _PAIR
            return 1 if is_once and len(single) <= _MOST_PARTS else math.inf
    return 1


def _count_texts(template: list[dict[str, Any]]) -> int:
    """Return how often a template puts in a text between its special tokens."""
    return sum("Sequence" in item for item in template)


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
            with no_panic():
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

    def exact(self, value: Any) -> None:
        """Return None: texts are read each by itself."""

    def value(self, value: Any) -> tuple[str, None]:
        """Return the text itself, or that of a `.txt` file."""
        if isinstance(value, os.PathLike):
            value = read_input(Path(value))
        return require_texts([value])[0], None

    def take_order(self, order: str) -> None:
        """Raise a `SettingError` for an order of channels other than the default."""
        if order != "rgb":
            raise SettingError(
                f"expected a bundle of pictures with channel_order, this one takes "
                f"{self.description}: leave it out"
            )

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
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        do = "decode bytes first" if is_encoded(wrong[0]) else "pass texts themselves"
        raise InputError(f"expected {noun} (str), got {kind_of(wrong[0])}: {do}")
    return texts
