"""Checkpoints open with the answers they were saved with; damage is named."""

import json
import os
import shutil

import numpy as np
import pytest
from tools.texts import write_classifier

from train.errors import CheckpointError
from train.models import DeferralHead, build, open_checkpoint, save, write_head
from train.models.kinds import load_tokenizer
from train.models.language import is_language_model, open_language_model

LABELS = [str(i) for i in range(10)]


def edit_config(path, **changes):
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_labels_that_do_not_count_from_zero_are_refused(small_checkpoint, tmp_path):
    path = shutil.copytree(small_checkpoint, tmp_path / "copy")
    names = {str(i + 1): name for i, name in enumerate(LABELS)}
    edit_config(path, id2label=names, label2id={v: int(k) for k, v in names.items()})
    with pytest.raises(CheckpointError, match="id2label"):
        open_checkpoint(path)


def test_accents_of_labels_are_composed(small_checkpoint, tmp_path):
    path = shutil.copytree(small_checkpoint, tmp_path / "copy")
    names = {str(i): f"e\u0301{i}" for i in range(10)}
    edit_config(path, id2label=names, label2id={v: int(k) for k, v in names.items()})
    assert open_checkpoint(path).labels == tuple(f"\u00e9{i}" for i in range(10))


def test_another_number_of_labels_than_weights_is_refused(small_checkpoint, tmp_path):
    path = shutil.copytree(small_checkpoint, tmp_path / "copy")
    names = dict(enumerate(LABELS[:7]))
    edit_config(path, id2label=names, label2id={v: k for k, v in names.items()})
    with pytest.raises(CheckpointError, match=r"of another shape: .*of another number of labels"):
        open_checkpoint(path)


def test_a_configuration_that_does_not_classify_pictures_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match=r"tokenizer|classifier"):
        build(str(tmp_path), labels=LABELS)


def test_a_foreign_architecture_gets_pictures_of_its_own_size(tmp_path):
    sizes = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "intermediate_size": 16}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", **sizes, **layers}))
    checkpoint = build(str(tmp_path), labels=LABELS, image_size=(8, 8))
    assert checkpoint.predict([np.zeros((8, 8, 3), np.uint8)]).shape == (1, 10)


def test_pictures_too_small_to_pool_are_refused():
    with pytest.raises(CheckpointError, match="at least 4 x 4"):
        build("small-cnn", labels=LABELS, image_size=(3, 3))


@pytest.mark.slow
def test_columns_that_a_model_does_not_take_are_dropped(tmp_path):
    path = write_classifier(tmp_path / "m", "distilbert")
    tokenizer = load_tokenizer(path)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # as of a BERT
    tokenizer.save_pretrained(path)
    checkpoint = open_checkpoint(path, kind="text")
    assert list(checkpoint.encode(["a card"])) == ["input_ids", "attention_mask"]
    assert checkpoint.predict(["a card", "b"]).shape == (2, 4)


def test_no_pictures_give_no_logits():
    assert build("small-cnn", labels=LABELS, image_size=(8, 8)).predict([]).shape == (0, 10)


def test_a_checkpoint_opens_with_the_same_answers(small_checkpoint, pictures):
    built = build("small-cnn", labels=LABELS, image_size=(8, 8), seed=3)
    np.testing.assert_array_equal(
        open_checkpoint(small_checkpoint).predict(pictures), built.predict(pictures)
    )


def damage_headless(path):
    from safetensors.torch import load_file, save_file

    weights = load_file(path / "model.safetensors")
    kept = {k: v for k, v in weights.items() if not k.startswith("classifier.3")}
    save_file(kept, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_the_files_of_a_checkpoint_have_the_modes_that_the_umask_leaves(
    umask, small_checkpoint, tmp_path
):
    checkpoint = open_checkpoint(small_checkpoint)
    usual = os.umask(umask)
    try:
        save(checkpoint, tmp_path / "new", extra={})
        write_head(DeferralHead(np.zeros(65, np.float32), 0.0, {}), tmp_path / "new")
    finally:
        os.umask(usual)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "new").iterdir()}
    assert {"model.safetensors", "deferral_head.safetensors", "config.json"} < modes.keys()
    assert set(modes.values()) == {0o666 & ~umask}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o777 & ~umask


def damage_link(path):
    file = path / "model.safetensors"
    file.unlink()
    file.symlink_to(path / "none")


DAMAGES = {
    "config.json": lambda p: (p / "config.json").unlink(),
    "safetensors": lambda p: (p / "model.safetensors").rename(p / "pytorch_model.bin"),
    "does not open": lambda p: (p / "model.safetensors").write_bytes(b"short"),
    "do not fit": damage_headless,
    "model.safetensors gives No such file or directory: check its owner and mode": damage_link,
    "nothing is at": shutil.rmtree,
}


@pytest.mark.parametrize("words", DAMAGES)
def test_the_damage_of_a_checkpoint_is_named(words, small_checkpoint, tmp_path):
    path = shutil.copytree(small_checkpoint, tmp_path / "copy")
    DAMAGES[words](path)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(path)


def replace_by_pipe(path, name):
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)


def name_in_index(name):
    def change(path):
        index = {"metadata": {}, "weight_map": {"layer": name}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: replace_by_pipe(p, "config.json"), "no regular file"),
        (lambda p: replace_by_pipe(p, "model.safetensors"), "no regular file"),
        (lambda p: replace_by_pipe(p, "vocab.txt"), "no regular file"),
        (lambda p: (p / "config.json").write_text("[" * 100_000), "nested deeper than 64 levels"),
        (lambda p: (p / "config.json").write_text("[]"), "expected an object in"),
        (lambda p: os.truncate(p / "preprocessor_config.json", 1 << 29), "at most 256 MiB"),
        (lambda p: edit_config(p, num_hidden_layers=10**7), "at most 2000 as num_hidden_layers"),
        (lambda p: edit_config(p, text_config={"depths": [1, 10**7]}), "at most 2000 as depths"),
        (lambda p: edit_config(p, num_labels=10**9), "at most 1048576 as num_labels"),
        (lambda p: edit_config(p, widths=[1 << 14] * 2), "config.json asks for .* MB, the files"),
        (name_in_index("../other/model.safetensors"), "it names '../other/model.safetensors'"),
        (name_in_index("other.safetensors"), "it names 'other.safetensors'"),
        (name_in_index(7), "it names '7'"),
        (
            lambda p: edit_config(p, transformers_weights="../other/model.safetensors"),
            "it names '../other/model.safetensors'",
        ),
        (lambda p: (p / "adapter_config.json").write_text("{}"), "merge the adapter"),
    ],
)
def test_a_folder_that_was_made_to_harm_is_refused(change, says, small_checkpoint, tmp_path):
    path = shutil.copytree(small_checkpoint, tmp_path / "copy")
    change(path)
    with pytest.raises(CheckpointError, match=says) as refused:
        open_checkpoint(path)
    assert "\n" not in str(refused.value)
    with pytest.raises(CheckpointError):
        open_language_model(path)
    assert not is_language_model(path)


def test_a_configuration_of_endless_layers_is_not_built(tmp_path):
    layers = {"model_type": "vit", "num_hidden_layers": 10**7}
    (tmp_path / "config.json").write_text(json.dumps(layers))
    with pytest.raises(CheckpointError, match="at most 2000 as num_hidden_layers"):
        build(str(tmp_path), labels=LABELS)
    layers["num_hidden_layers"] = 10**400  # no float holds it
    (tmp_path / "config.json").write_text(json.dumps(layers))
    with pytest.raises(CheckpointError, match="at most 2000 as num_hidden_layers"):
        build(str(tmp_path), labels=LABELS)


@pytest.mark.parametrize(
    "entry",
    [
        {"_attn_implementation": "someone/kernel@main"},
        {"attn_implementation": {"": "someone/kernel"}},
        {"backbone_config": {"_experts_implementation_internal": "flash|someone/kernel:name"}},
    ],
)
def test_attention_from_a_repository_is_refused(entry, small_checkpoint, tmp_path):
    path = shutil.copytree(small_checkpoint, tmp_path / "copy")
    edit_config(path, **entry)
    with pytest.raises(CheckpointError, match=r"config.json asks for code from '.*someone/kern"):
        open_checkpoint(path)
