"""`python -m train new-lm`: a checkpoint that opens, and settings that are refused."""

import json
import re

import pytest
from tools.language_models import TEXTS

from edge_runtime.errors import SettingError
from train.errors import DataError, OutputError
from train.language.settings import NewLanguageSettings
from train.models import open_language_model
from train.models.untrained import ARCHITECTURES

SIZES = {"width": 16, "layers": 1, "heads": 4, "context": 32, "vocabulary": 270}


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_new_model_opens_with_the_sizes_of_the_settings(architecture, texts, tmp_path, capsys):
    out = tmp_path / "new"
    NewLanguageSettings(architecture=architecture, texts=texts, out=out, **SIZES).run()
    lm = open_language_model(out)
    assert lm.model.config.model_type == architecture
    assert (lm.vocabulary, lm.context, len(lm.tokenizer)) == (270, 32, 270)
    assert lm.model.config.hidden_size == 16
    assert capsys.readouterr().out == (
        f"{out}: {architecture} with {lm.weights:,} random weights and 270 tokens\n"
    )
    record = json.loads((out / "training.json").read_text(encoding="utf-8"))
    assert (record["command"], record["settings"]["width"]) == ("new-lm", 16)
    assert lm.generate(["what is my balance"], 2).counted.any()


def test_the_tokenizer_is_trained_on_a_tasks_training_split(tmp_path):
    for split, word in (("train", "sky"), ("validation", "sea"), ("test", "lawn")):
        rows = [{"prompt": f"{word} {i}:", "completion": " azure"} for i in range(20)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    out = tmp_path / "new"
    NewLanguageSettings(task=str(tmp_path), out=out, **SIZES | {"vocabulary": 300}).run()
    tokenizer = open_language_model(out).tokenizer
    # Only words of train, in prompts and completions, are one token each after <bos>.
    counts = {text: len(tokenizer(text)["input_ids"]) - 1 for text in ("sky", " azure", "lawn")}
    assert counts == {"sky": 1, " azure": 1, "lawn": 4}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"window": 9}, "--window with gemma2, qwen2, mistral, got it with gemma"),
        ({"heads": 3}, "--heads that divide --width evenly, got 3 for 16"),
        ({"kv_heads": 3}, "--kv-heads that divide --heads evenly, got 3 for 4"),
        ({"kv_heads": 8}, "--kv-heads that divide --heads evenly, got 8 for 4"),
        ({"heads": 16}, "to be even, since rotary positions turn pairs of values, got 1"),
        ({"kv_heads": 2, "architecture": "gpt2"}, "no --kv-heads for gpt2"),
        ({"task": "clinc150"}, "either --task or --texts"),
        ({"texts": None}, "either --task or --texts"),
        ({"data": "x"}, "--task with --data"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_read(changed, message, tmp_path):
    settings = {"texts": tmp_path / "absent", "out": tmp_path / "new", **SIZES, **changed}
    with pytest.raises(SettingError, match=re.escape(message)):
        NewLanguageSettings(**settings)


def test_gpt2_may_have_heads_of_an_odd_size(texts, tmp_path):
    sizes = {**SIZES, "heads": 16}
    out = tmp_path / "new"
    NewLanguageSettings(architecture="gpt2", texts=texts, out=out, **sizes).run()
    assert open_language_model(out).model.config.n_head == 16


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good\n\xff\xfe bad", "expected UTF-8 in line 2 of .*got the byte 0xff"),
        (b"", "expected text in"),
        (b" \n\t\n", "expected text in"),
        (None, "expected a file at"),
    ],
)
def test_unusable_text_is_refused_in_one_line(content, message, tmp_path):
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        NewLanguageSettings(texts=path, out=tmp_path / "new", **SIZES).run()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_an_existing_folder_is_replaced_only_with_overwrite(texts, tmp_path):
    out = tmp_path / "new"
    NewLanguageSettings(texts=texts, out=out, **SIZES).run()
    with pytest.raises(OutputError):
        NewLanguageSettings(texts=texts, out=out, **SIZES).run()
    NewLanguageSettings(texts=texts, out=out, overwrite=True, **SIZES | {"width": 8}).run()
    assert open_language_model(out).model.config.hidden_size == 8
