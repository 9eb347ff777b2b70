"""A tokenizer that was made to harm neither hangs nor ends the process."""

import base64
import json

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edge_runtime.errors import BundleError, InputError
from edge_runtime.inputs.texts import TextEncoder, open_tokenizer
from edge_runtime.language.text import FAILED, PromptTokenizer
from train.errors import CheckpointError

WORDS = {"[UNK]": 0, "a": 1, "[PAD]": 2}
DOUBLE = normalizers.Replace("a", "aa")


def tokenizer_with(model=None, **parts):
    tokenizer = Tokenizer(model or models.WordLevel(WORDS, unk_token="[UNK]"))
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def save(tokenizer, folder, change=None):
    content = json.loads(tokenizer.to_str())
    if change:
        change(content)
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(content))
    return file


def pad_to(length):
    def change(content):
        content["padding"] = {
            "strategy": {"Fixed": length},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 2,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        }

    return change


def charsmap(content):
    packed = base64.b64encode((4).to_bytes(4, "little") + bytes(4) + b"x" * 2000).decode()
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": packed}


def templates(times):
    twice = processors.TemplateProcessing(single="$A $A", special_tokens=[])
    return processors.Sequence([twice] * times)


BYTES = [pre_tokenizers.ByteLevel(use_regex=False)] * 7
EMPTY = [normalizers.Prepend(""), normalizers.Lowercase(), normalizers.Lowercase()]
HOSTILE = {
    # Found by tests/fuzz/tokenizer.py: the library panics on its first text.
    "writes nothing in front": (
        tokenizer_with(
            normalizer=normalizers.Sequence([normalizers.Prepend("kkkkk\0\0"), *EMPTY]),
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.UnicodeScripts(), pre_tokenizers.ByteLevel()]
            ),
        ),
        None,
        "does not open .*index out of bounds",
    ),
    "doubles 40 times": (
        tokenizer_with(normalizer=normalizers.Sequence([DOUBLE] * 40)),
        None,
        "64",
    ),
    "writes much between letters": (
        tokenizer_with(normalizer=normalizers.Replace(Regex(""), "b" * 99)),
        None,
        "normalizer lengthens a text",
    ),
    "bytes of bytes": (
        tokenizer_with(pre_tokenizer=pre_tokenizers.Sequence(BYTES)),
        None,
        "pre_tokenizer lengthens",
    ),
    "a template that doubles": (tokenizer_with(post_processor=templates(1)), None, "lengthens"),
    "long words of Unicode": (tokenizer_with(), charsmap, "does not open"),
    "a decoder that doubles": (
        tokenizer_with(decoder=decoders.Sequence([decoders.Replace("a", "aa")] * 7)),
        None,
        "decoder lengthens a text",
    ),
    "many parts": (
        tokenizer_with(normalizer=normalizers.Sequence([normalizers.NFC()] * 99)),
        None,
        "has 100 parts, more than 64",
    ),
    "pads to 2^31": (tokenizer_with(), pad_to(1 << 31), "it pads to more than 131072 tokens"),
    "words without end": (
        tokenizer_with(models.WordPiece(WORDS, unk_token="[UNK]", max_input_chars_per_word=10**9)),
        None,
        "words of more than 1000 characters",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_tokenizer_that_makes_work_without_end_is_refused(name, tmp_path):
    tokenizer, change, says = HOSTILE[name]
    file = save(tokenizer, tmp_path, change)
    with pytest.raises(BundleError, match=says) as refused:
        open_tokenizer(file)
    assert "\n" not in str(refused.value)


def test_a_checkpoint_with_such_a_tokenizer_is_refused(tmp_path):
    from train.models.kinds import FAMILIES, open_processor

    save(tokenizer_with(normalizer=normalizers.Sequence([DOUBLE] * 40)), tmp_path)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="its normalizer lengthens a text more than 64 times"):
        open_processor(FAMILIES[1], tmp_path, None)


def test_the_parts_of_known_models_pass(tmp_path):
    replace = normalizers.Replace
    llama = [normalizers.Prepend("▁"), replace(" ", "▁")]
    albert = [replace("``", '"'), replace("''", '"'), normalizers.NFKD(), normalizers.Lowercase()]
    xlm = [normalizers.Nmt(), normalizers.NFKC(), replace(Regex(" {2,}"), " ")]
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()])
    known = [
        tokenizer_with(normalizer=normalizers.BertNormalizer()),
        *(tokenizer_with(normalizer=normalizers.Sequence(n)) for n in (llama, albert, xlm)),
        tokenizer_with(pre_tokenizer=digits, decoder=decoders.ByteLevel()),
        tokenizer_with(
            post_processor=processors.TemplateProcessing(
                single="[CLS] $A", pair="$A $B:1", special_tokens=[("[CLS]", 3)]
            )
        ),
    ]
    for tokenizer in known:
        open_tokenizer(save(tokenizer, tmp_path))


def test_a_panic_of_the_library_is_an_error_of_the_text(tmp_path):
    # Its search gives up on this pattern and this text, with what no `except Exception` holds.
    slow = normalizers.Replace(Regex("(a+)+$"), "b")
    tokenizer = tokenizer_with(normalizer=slow, pre_tokenizer=pre_tokenizers.Whitespace())
    file = save(tokenizer, tmp_path)
    text = "a" * 60 + "!"
    with pytest.raises(InputError, match="the tokenizer can read, it failed"):
        TextEncoder(file, ("input_ids",))([text])
    assert PromptTokenizer(file).encode(text, 100) == ([], FAILED)
    assert TextEncoder(file, ("input_ids",))(["a !"])["input_ids"].shape == (1, 2)


@pytest.mark.parametrize(
    "model",
    [
        models.WordPiece({"a": 0}, unk_token="[UNK]"),
        models.WordLevel({"a": 0}, unk_token="[UNK]"),
        models.Unigram([("a", 0.0)]),
    ],
)
def test_a_text_without_a_token_for_unknown_words_is_refused(model, tmp_path):
    # It drops the character with which an opened tokenizer is tried.
    file = save(tokenizer_with(model, normalizer=normalizers.BertNormalizer()), tmp_path)
    with pytest.raises(InputError, match="the tokenizer can read, it failed"):
        TextEncoder(file, ("input_ids",))(["b"])
    assert PromptTokenizer(file).encode("b", 100) == ([], FAILED)
    assert TextEncoder(file, ("input_ids",))(["a"])["input_ids"].tolist() == [[0]]
