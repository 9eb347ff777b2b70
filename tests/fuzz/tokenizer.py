"""Fuzzes the admission of tokenizers: what is admitted reads a text in little time and memory.

An input is edits of a valid `tokenizer.json` of one of the four models, with parts of others.
`CONTRIBUTING.md` says how to run it.
"""

import json
from typing import Any

import atheris
from edits import SCRATCH, edit_json, edit_text, fuzz

with atheris.instrument_imports(
    include=["edge_runtime.inputs.texts", "edge_runtime.language.text"]
):
    from edge_runtime.errors import InputError
    from edge_runtime.inputs import texts
    from edge_runtime.language.text import PromptTokenizer

from tokenizers import (
    Regex,  # fmt: skip
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

_FILE = SCRATCH / "fuzzed-tokenizer.json"
_MOST_TOKENS = 200_000
_MOST_TEXT = 100_000
_TEXT = "a[UNK] é\ufdfa漢字 aa  b''x``\n1,2" * 2
_WORDS = {"[UNK]": 0, "a": 1, "[CLS]": 2, "##a": 3, "b": 4, "Ġ": 5, "aa": 6}
_CHARSMAP = (1024).to_bytes(4, "little") + bytes(1024) + b"a\0"


def _tokenizers() -> list[Tokenizer]:
    """Return tokenizers whose parts cover those that are known."""
    special = [("[CLS]", 2)]
    word = Tokenizer(models.WordLevel(_WORDS, unk_token="[UNK]"))
    word.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace("a", "b"), normalizers.Prepend("_")]
    )
    word.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits()]
    )
    word.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $A $B:1", special_tokens=special
    )
    word.enable_padding(length=16, pad_id=0, pad_token="[UNK]")
    piece = Tokenizer(models.WordPiece(_WORDS, unk_token="[UNK]", max_input_chars_per_word=100))
    piece.normalizer = normalizers.BertNormalizer()
    piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    piece.post_processor = processors.BertProcessing(("[CLS]", 2), ("[CLS]", 2))
    piece.decoder = decoders.WordPiece()
    piece.enable_truncation(8)
    pairs = Tokenizer(models.BPE(_WORDS, [("a", "a")], unk_token="[UNK]", byte_fallback=True))
    pairs.normalizer = normalizers.Replace(Regex("a+"), "a")
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    pairs.post_processor = processors.RobertaProcessing(("[CLS]", 2), ("[CLS]", 2))
    pairs.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    pairs.add_special_tokens(["[CLS]"])
    scores = [(name, -float(i)) for i, name in enumerate(_WORDS)]
    unigram = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=False))
    unigram.normalizer = normalizers.Precompiled(_CHARSMAP)
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Sequence([decoders.Metaspace(), decoders.Replace("a", "")])
    return [word, piece, pairs, unigram]


def _components(part: Any) -> list[dict[str, Any]]:
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    found = [one for value in inner for one in _components(value)]
    return [part, *found] if isinstance(part, dict) and "type" in part else found


_SEEDS = [json.dumps(json.loads(tokenizer.to_str())) for tokenizer in _tokenizers()]
_PARTS: list[Any] = [part for seed in _SEEDS for part in _components(json.loads(seed))]
_PARTS += [{"type": name} for names in texts._PARTS.values() for name in names.split()[1:]]
_PARTS += [
    {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated", "invert": False}
]
_PARTS += [
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"Fixed": 1 << 17},
    "BatchLongest",
]
_PARTS += [{"type": "Strip", "content": "a", "start": 1 << 40, "stop": 1}, "[UNK]", "a" * 200, ""]


def _opened(content: str) -> str:
    _FILE.write_bytes(content.encode("utf-8", "surrogatepass"))
    try:
        found = texts.TextEncoder(_FILE, ("input_ids",))([_TEXT])["input_ids"]
    except InputError:
        return "no token"
    assert found.size <= _MOST_TOKENS, found.size
    reader = PromptTokenizer(_FILE)
    tokens, reason = reader.encode(_TEXT, 1 << 20)
    assert len(tokens) <= _MOST_TOKENS, (len(tokens), reason)
    assert len(reader.decode([*tokens[:64], 0, 1, 1 << 30])) < _MOST_TEXT
    return "read a text"


def read(given: atheris.FuzzedDataProvider) -> str:
    """Read one tokenizer."""
    content = json.dumps(edit_json(given.PickValueInList(_SEEDS), given, _PARTS))
    return _opened(edit_text(content, given) if given.ConsumeIntInRange(0, 15) == 15 else content)


if __name__ == "__main__":
    for seed in _SEEDS:
        assert _opened(seed) == "read a text", seed
    fuzz(read, max_len=160, len_control=0)
