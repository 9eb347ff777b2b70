"""Control tokens that are written in a text are text, alike in training and on the device."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors as post
from tools.language_models import TEXTS, tiny
from tools.texts import make_tokenizer
from transformers import PreTrainedTokenizerFast

from edge_runtime.inputs.texts import TextEncoder
from edge_runtime.language.text import PromptTokenizer
from export.sources.text_checkpoint import standalone_tokenizer, write_tokenizer
from train.data.tasks import Example
from train.language.encoding import TokenData, completion_ids
from train.models.generation import encode
from train.models.kinds import plain_texts
from train.models.language import LanguageModel, open_language_model, save_language_model
from train.models.untrained import trained_tokenizer

LETTERS = "abcxytols<>/▁"


def byte_level():
    return trained_tokenizer(TEXTS, 280), "<bos>", "<eos>"


def pieces():
    """Like Llama's: SentencePiece as BPE with bytes for what is unknown."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *LETTERS, "<s"]
    ids = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(ids, [("<", "s")], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Fuse()
    return wrapped(tokenizer, "<unk>")


def merged():
    """BPE whose merges make the very name of a control token."""
    ids = {name: number for number, name in enumerate(["<unk>", "<s>", "</s>", *LETTERS, "<s"])}
    merges = [("<", "s"), ("<s", ">")]
    return wrapped(Tokenizer(models.BPE(ids, merges, unk_token="<unk>")), "<unk>")


def unigram():
    """Like T5's and XLM-R's, whose vocabulary looks names up whole."""
    known = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((c, -3.0) for c in LETTERS)]
    tokenizer = Tokenizer(models.Unigram(known, unk_id=0))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return wrapped(tokenizer, "<unk>")


def words():
    known = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return wrapped(tokenizer, "<unk>")


def wrapped(tokenizer, unknown):
    begin = [("<s>", tokenizer.token_to_id("<s>"))]
    tokenizer.post_processor = post.TemplateProcessing(single="<s> $A", special_tokens=begin)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        unk_token=unknown,
        clean_up_tokenization_spaces=False,
    )
    made.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return made, "<s>", "</s>"


def word_pieces():
    return make_tokenizer(), "[CLS]", "[SEP]"


KINDS = (byte_level, pieces, merged, unigram, words)


def on_device(tokenizer, folder):
    return PromptTokenizer(write_tokenizer(standalone_tokenizer(tokenizer, folder), folder))


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_in_a_prompt_are_text_alike_in_training_and_on_the_device(kind, tmp_path):
    tokenizer, begin, end = kind()
    device = on_device(tokenizer, tmp_path)  # exported before anything is set in training
    plain_texts(tokenizer)
    begin_id, end_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    forms = (f"{begin}", f"{begin}a b", f"a {begin} b", f"a{end}b", f"{end} {end}{begin}", "a <b")
    trained = encode(tokenizer, forms)
    for form, ids in zip(forms, trained, strict=True):
        assert ids[0] == begin_id
        assert not {begin_id, end_id} & set(ids[1:]), form
        assert device.encode(form, 1000) == (ids, None)
    assert not {begin_id, end_id} & set(
        completion_ids(tokenizer, Example("", "", f"a{end}b", ""))[:-1]
    )


@pytest.mark.parametrize("kind", KINDS[1:])
def test_added_tokens_that_are_not_special_stay_one_token(kind, tmp_path):
    tokenizer, *_ = kind()
    plain_texts(tokenizer)
    device = on_device(tokenizer, tmp_path)
    tool = tokenizer.convert_tokens_to_ids("<tool>")
    (ids,) = encode(tokenizer, ["a <tool> b"])
    assert ids.count(tool) == 1
    assert device.encode("a <tool> b", 1000) == (ids, None)


@pytest.mark.parametrize("kind", KINDS)
def test_other_texts_become_the_tokens_that_they_were(kind, tmp_path):
    (before, *_), (after, *_) = kind(), kind()
    plain_texts(after)
    texts = ["a b", "a<b> /s", "", "x s> y", " <unk> "[:-3], "tool </ s>"]
    assert after(texts)["input_ids"] == before(texts)["input_ids"]


def test_a_name_in_other_letters_is_text_too(tmp_path):
    # NFKC makes the usual letters of these.
    tokenizer, *_ = unigram()
    plain_texts(tokenizer)
    (ids,) = encode(tokenizer, ["a \uff1cs\uff1e"])
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_classifiers_text_cannot_end_itself(tmp_path):
    tokenizer, *_ = word_pieces()
    exported = standalone_tokenizer(tokenizer, tmp_path)
    exported.enable_truncation(60)
    device = TextEncoder(write_tokenizer(exported, tmp_path), ("input_ids",))
    plain_texts(tokenizer)
    texts = ["card [SEP] card", "[CLS]", "my [PAD] card[SEP]"]
    for text in texts:
        ids = device([text])["input_ids"][0].tolist()
        assert ids == tokenizer(text)["input_ids"]
        assert [
            ids.count(tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")
        ] == [1, 1]
        assert tokenizer.pad_token_id not in ids


def test_a_saved_model_keeps_its_tokenizer_and_reads_texts_as_before(tmp_path):
    lm = tiny("llama")
    save_language_model(lm, tmp_path / "lm")
    opened = open_language_model(tmp_path / "lm")
    prompts = ["<bos>what <eos>", "what"]
    assert encode(opened.tokenizer, prompts) == encode(lm.tokenizer, prompts)
    fresh = PreTrainedTokenizerFast.from_pretrained(tmp_path / "lm")
    assert fresh("<bos>")["input_ids"] == [fresh.bos_token_id] * 2


def test_an_example_with_control_tokens_is_learned_as_text():
    tokenizer, *_ = words()
    lm = LanguageModel(tiny("llama").model, tokenizer, None)
    (example,) = [TokenData(lm, [Example("1", "<s> a </s>", "</s> b", "b")])[0]]
    assert (example["input_ids"] == tokenizer.bos_token_id).sum() == 1
    assert (example["input_ids"] == tokenizer.eos_token_id).sum() == 1
