"""Fuzzes the admission of tokenizers: what is admitted reads a text in little time and memory.

`pip install atheris tokenizers`, then `python tests/fuzz/tokenizer.py -max_total_time=600 CORPUS`.
An input is a `tokenizer.json`, or a choice of parts that are put together. Any error but a refusal
is a find, and so are ten seconds and a text that grew 1,000 times.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports():
    from edge_runtime import texts
    from edge_runtime.errors import BundleError, InputError

_SLOW_S = 10.0
_MOST_TOKENS = 200_000
_FILE = Path(tempfile.mkdtemp()) / "tokenizer.json"
_TEXT = "a[UNK] é\ufdfa漢字 aa  b''x``\n" * 4
_NORMALIZERS = ["Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "StripAccents", "ByteLevel"]
_SPLITS = ["BertPreTokenizer", "Whitespace", "WhitespaceSplit", "UnicodeScripts"]


def parts(given: atheris.FuzzedDataProvider, depth: int = 0) -> dict[str, object]:
    """Return a normalizer made of choices."""
    choice = given.ConsumeIntInRange(0, 3 if depth < 3 else 2)
    if choice == 0:
        return {"type": given.PickValueInList(_NORMALIZERS)}
    if choice == 1:
        kind = given.PickValueInList(["String", "Regex"])
        pattern = {kind: given.ConsumeUnicodeNoSurrogates(4)}
        content = given.ConsumeUnicodeNoSurrogates(given.ConsumeIntInRange(0, 200))
        return {"type": "Replace", "pattern": pattern, "content": content}
    if choice == 2:
        return {"type": "Prepend", "prepend": given.ConsumeUnicodeNoSurrogates(9)}
    inner = [parts(given, depth + 1) for _ in range(given.ConsumeIntInRange(0, 20))]
    return {"type": "Sequence", "normalizers": inner}


def made(data: bytes) -> bytes:
    """Return a tokenizer.json with the chosen parts."""
    given = atheris.FuzzedDataProvider(data)
    splits = [{"type": given.PickValueInList(_SPLITS)}]
    splits += [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}] * (
        given.ConsumeIntInRange(0, 8)
    )
    content = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": parts(given),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits},
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"},
        "padding": {
            "strategy": {"Fixed": given.ConsumeIntInRange(0, 1 << 33)},
            "direction": "Right",
            "pad_to_multiple_of": given.ConsumeIntInRange(1, 1 << 33),
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[UNK]",
        }
        if given.ConsumeBool()
        else None,
    }
    return json.dumps(content).encode()


def one_input(data: bytes) -> None:
    """Open one tokenizer; if it is admitted, read a text."""
    _FILE.write_bytes(data if data[:1] == b"{" else made(data))
    start = time.perf_counter()
    try:
        found = texts.TextEncoder(_FILE, ("input_ids",))([_TEXT])["input_ids"]
        assert found.size <= _MOST_TOKENS, found.size
    except (BundleError, InputError) as error:
        if "\n" in str(error):
            raise AssertionError from error
    assert time.perf_counter() - start < _SLOW_S


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
