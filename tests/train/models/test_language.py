"""Folders of language models: saved, opened unchanged, or refused in one line."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from tools.language_models import PROMPTS, SHAPE, TEXTS
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from edge_runtime import metrics
from train.errors import CheckpointError
from train.models import (
    LanguageModel,
    build,
    open_checkpoint,
    open_language_model,
    save,
    save_language_model,
)
from train.models.language import is_language_model
from train.models.untrained import (
    ARCHITECTURES,
    WINDOWED,
    trained_tokenizer,
    untrained_language_model,
)

VOCABULARY = 280
WEIGHTS = "model.safetensors"


def untrained(architecture, *, seed=0):
    tokenizer = trained_tokenizer(TEXTS, VOCABULARY)
    return untrained_language_model(architecture, SHAPE, tokenizer, seed=seed)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the folder of a Llama that every test may copy."""
    folder = tmp_path_factory.mktemp("language-models") / "llama"
    save_language_model(untrained("llama"), folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "lm")


def change_json(path, **changes):
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = {k: v for k, v in {**content, **changes}.items() if v is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def change_weights(folder, change):
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def assert_refused(folder, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        open_language_model(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_model_opens_unchanged(architecture, tmp_path):
    before = untrained(architecture)
    save_language_model(before, tmp_path / "lm", extra={"command": "test"})
    after = open_language_model(tmp_path / "lm")
    assert (after.path, after.context, after.vocabulary) == (tmp_path / "lm", 96, VOCABULARY)
    assert not after.model.training
    assert {p.dtype for p in after.model.parameters()} == {torch.float32}
    assert after.weights == before.weights
    for (name, ours), theirs in zip(
        after.model.named_parameters(), before.model.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    for prompt in [*PROMPTS, "never seen ÿ \x00 天"]:
        ids = after.tokenizer(prompt)["input_ids"]
        assert ids == before.tokenizer(prompt)["input_ids"]
        assert after.tokenizer.decode(ids, skip_special_tokens=True) == prompt
    assert is_language_model(tmp_path / "lm")


def test_weights_can_be_loaded_in_bf16(folder):
    lm = open_language_model(folder, weights="bf16")
    assert {p.dtype for p in lm.model.parameters()} == {torch.bfloat16}
    assert np.isfinite(lm.generate(PROMPTS, 2).confidence("neg_entropy")).all()


def test_the_seed_determines_the_weights_and_leaves_torchs_own_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (untrained("gemma", seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    name = "model.embed_tokens.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_untrained_model_has_the_sizes_of_its_shape(architecture):
    lm = untrained(architecture)
    width, inner, keys = SHAPE.width, SHAPE.inner, SHAPE.kv_heads * SHAPE.width // SHAPE.heads
    if architecture == "gpt2":
        block = 4 * width + 3 * width * (width + 1) + width * (width + 1)
        block += inner * (width + 1) + width * (inner + 1)
        rest = SHAPE.context * width + 2 * width
    else:
        norms = 4 if architecture == "gemma2" else 2
        block = norms * width + 2 * width * width + 2 * keys * width + 3 * inner * width
        block += width + 2 * keys if architecture == "qwen2" else 0  # the biases of its attention
        rest = width
    assert lm.weights == VOCABULARY * width + SHAPE.layers * block + rest
    assert (lm.context, lm.vocabulary, lm.path) == (SHAPE.context, VOCABULARY, None)


def test_the_soft_cap_of_attention_is_applied(tmp_path):
    save_language_model(untrained("gemma2"), tmp_path / "lm")
    ids = torch.tensor([[5, 90, 17, 33]])
    logits = []
    for cap in (50.0, 1e-6):
        change_json(tmp_path / "lm" / "config.json", attn_logit_softcapping=cap)
        logits.append(open_language_model(tmp_path / "lm").model(input_ids=ids).logits)
    assert (logits[0] - logits[1]).abs().max() > 1e-4


@pytest.mark.parametrize("architecture", WINDOWED)
def test_the_window_reaches_the_layers_that_have_one(architecture, tmp_path):
    shape = dataclasses.replace(SHAPE, layers=4, window=5)
    tokenizer = trained_tokenizer(TEXTS, VOCABULARY)
    save_language_model(untrained_language_model(architecture, shape, tokenizer), tmp_path / "lm")
    model = open_language_model(tmp_path / "lm").model
    if architecture == "mistral":  # whose layers are all alike
        assert model.config.sliding_window == 5
        return
    seen = [layer.self_attn.sliding_window for layer in model.model.layers]
    assert seen == {"gemma2": [5, None, 5, None], "qwen2": [None, None, 5, 5]}[architecture]


def test_a_prompt_begins_with_its_token_and_ends_without_one():
    tokenizer = trained_tokenizer(TEXTS, VOCABULARY)
    ids = tokenizer("what")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert len(tokenizer) == VOCABULARY


def test_a_vocabulary_of_one_token_is_always_sure(tmp_path):
    bare = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare)
    config = LlamaConfig(
        vocab_size=1,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    save_language_model(LanguageModel(LlamaForCausalLM(config), tokenizer, None), tmp_path / "one")
    change_json(tmp_path / "one" / "tokenizer_config.json", eos_token="a")
    assert_refused(tmp_path / "one", "expected a tokenizer of the language model")
    tokenizer.pad_token = tokenizer.eos_token = "a"
    generated = LanguageModel(LlamaForCausalLM(config).eval(), tokenizer, None).generate(["a"], 3)
    assert generated.tokens[generated.counted].tolist() == [0]
    assert generated.texts == ("",)
    for kind in metrics.SEQUENCE_KINDS:
        value = generated.confidence(kind)
        assert metrics.unit_sequence_confidence(kind, value, 1).tolist() == [1.0]


def test_a_tokenizer_without_a_padding_token_pads_with_the_end(folder):
    change_json(folder / "tokenizer_config.json", pad_token=None)
    lm = open_language_model(folder)
    assert lm.tokenizer.pad_token_id == lm.tokenizer.eos_token_id
    assert np.isfinite(lm.generate(PROMPTS, 2).confidence("min_prob")).all()


def test_a_folder_without_a_model_is_refused_in_one_line(folder, tmp_path):
    assert_refused(tmp_path / "absent", "nothing is at")
    (folder / "config.json").unlink()
    assert_refused(folder, "with a config.json, at")
    assert not is_language_model(folder)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]", b"{}", b'{"model_type": "none"}'])
def test_a_damaged_config_is_refused_in_one_line(content, folder):
    (folder / "config.json").write_bytes(content)
    assert_refused(folder, "expected")
    assert not is_language_model(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"{}"])
def test_a_damaged_tokenizer_is_refused_in_one_line(content, folder):
    (folder / "tokenizer.json").write_bytes(content)
    assert_refused(folder, "expected a language model and its tokenizer|expected a tokenizer")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_missing_tokenizer_is_refused_in_one_line(architecture, tmp_path):
    save_language_model(untrained(architecture), tmp_path / "lm")
    for path in (tmp_path / "lm").glob("*token*"):
        path.unlink()
    assert_refused(tmp_path / "lm", "tokenizer")


def test_a_tokenizer_of_a_larger_model_is_refused_in_one_line(folder):
    trained_tokenizer(TEXTS, VOCABULARY + 9).save_pretrained(folder)
    assert_refused(folder, "at most the model's 280 tokens in the tokenizer of .* it has 289")


def test_a_token_after_a_gap_in_the_numbers_is_noticed(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    last = max(content["model"]["vocab"], key=content["model"]["vocab"].get)
    content["model"]["vocab"][last] = 999
    path.write_text(json.dumps(content), encoding="utf-8")
    assert_refused(folder, "at most the model's 280 tokens in the tokenizer of .* it has 1000")


def test_a_missing_end_of_sequence_token_is_refused_in_one_line(folder):
    change_json(folder / "tokenizer_config.json", eos_token=None)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    assert_refused(folder, "expected an end-of-sequence token .* name one as eos_token")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_infinite_weights_are_refused_in_one_line(bad, folder):
    def spoil(state):
        state["model.layers.1.mlp.up_proj.weight"][3, 4] = bad

    change_weights(folder, spoil)
    assert_refused(folder, "model.layers.1.mlp.up_proj.weight holds NaN or infinity")


def test_missing_weights_are_refused_in_one_line(folder):
    change_weights(folder, lambda state: state.pop("model.norm.weight"))
    assert_refused(folder, "1 are missing, e.g. model.norm.weight")


def test_weights_of_another_shape_are_refused_in_one_line(folder):
    def cut(state):
        state["model.norm.weight"] = state["model.norm.weight"][:-1].clone()

    change_weights(folder, cut)
    assert_refused(folder, "do not open|do not fit")


@pytest.mark.parametrize("content", [b"", b"\x00" * 64])
def test_damaged_weights_are_refused_in_one_line(content, folder):
    (folder / WEIGHTS).write_bytes(content)
    assert_refused(folder, "they do not open")


def test_pickled_weights_are_not_opened(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert_refused(folder, "pickled weights can run code and are not opened")


def test_code_in_a_folder_is_not_run(folder, tmp_path):
    mark = tmp_path / "ran"
    (folder / "own.py").write_text(
        f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
        "from transformers import LlamaConfig as Config, LlamaForCausalLM as Model\n"
    )
    names = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    change_json(folder / "config.json", auto_map=names)
    lm = open_language_model(folder)
    assert type(lm.model) is LlamaForCausalLM
    change_json(folder / "config.json", model_type="own")
    assert_refused(folder, "they do not open")
    assert not mark.exists()


def test_attention_from_a_repository_is_refused(folder):
    change_json(folder / "config.json", _attn_implementation="someone/kernel")
    assert_refused(folder, "its config.json asks for code from 'someone/kernel'")


def test_a_classifier_is_not_a_language_model(tmp_path, text_start):
    save(build("small-cnn", labels=["a", "b"], image_size=(8, 8)), tmp_path / "pictures")
    assert_refused(tmp_path / "pictures", "its config.json describes another kind: SmallCNN")
    assert_refused(text_start, "another kind: .*ForSequenceClassification")
    assert not is_language_model(text_start)


@pytest.fixture(params=["bert", "gpt2"])
def text_start(request, tmp_path):
    from tools.texts import write_classifier

    return write_classifier(tmp_path / request.param, kind=request.param)


@pytest.mark.parametrize("kind", ["image", "text", None])
def test_a_language_model_is_not_a_classifier_and_its_commands_are_named(kind, folder):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder, kind=kind)
    assert str(caught.value) == (
        f"expected an image or text classifier in {folder}, it holds a language model "
        "(LlamaForCausalLM): use python -m train fit-lm, tune-lm and evaluate-lm, "
        "and python -m export lm"
    )
