"""Training: checkpoints, data, and the Trainer set-up."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from train import data
from train.classifier.settings import FitSettings, TuneSettings
from train.errors import CheckpointError, DataError, OutputError
from train.models import build, open_checkpoint

LABELS = [str(i) for i in range(10)]


def test_small_cnn_has_the_papers_size():
    # 3*16*9+16 + 2*16  +  16*32*9+32 + 2*32  +  2048*64+64  +  64*10+10
    model = build("small-cnn", labels=LABELS, image_size=(32, 32)).model
    assert sum(p.numel() for p in model.parameters()) == 136_970
    assert model.classifier[1].in_features == 2048


def test_resnet_20_keeps_its_size_for_small_pictures():
    model = build("resnet-20", labels=LABELS, image_size=(8, 8)).model
    assert model(pixel_values=torch.zeros(2, 3, 8, 8)).logits.shape == (2, 10)
    # He et al. 2016, table 6: 0.27 M
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(0.27e6, rel=0.01)


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


DAMAGES = {
    "config.json": lambda p: (p / "config.json").unlink(),
    "safetensors": lambda p: (p / "model.safetensors").rename(p / "pytorch_model.bin"),
    "does not open": lambda p: (p / "model.safetensors").write_bytes(b"short"),
    "do not fit": damage_headless,
    "nothing is at": shutil.rmtree,
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_checkpoint_is_refused_in_words(words, small_checkpoint, tmp_path):
    path = shutil.copytree(small_checkpoint, tmp_path / "copy")
    DAMAGES[words](path)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(path)


def test_digits_splits_share_no_picture():
    small, more = data.load("digits"), data.load("digits-more")
    assert len(small.test) > 700
    assert small.test.ids == more.test.ids
    assert set(small.train.ids) < set(more.train.ids)
    parts = [set(part.ids) for part in (more.train, more.validation, more.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 1797


def write_folder(path, classes, count=12):
    draws = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            folder = path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture = draws.integers(0, 256, (6, 7), dtype=np.uint8)
                Image.fromarray(picture).save(folder / f"{i}.png")


def test_a_folder_of_grey_pictures_is_a_data_set(tmp_path):
    write_folder(tmp_path, ["cat", "dog"])
    splits = data.load(str(tmp_path))
    assert splits.label_names == ("cat", "dog")
    assert splits.test.array().shape == (24, 6, 7, 3)
    assert len(splits.train) + len(splits.validation) == 24
    assert set(splits.validation.labels) == {0, 1}


def test_a_missing_data_set_is_named():
    with pytest.raises(DataError, match="/nowhere"):
        data.load("/nowhere")


def test_a_single_class_is_refused(tmp_path):
    write_folder(tmp_path, ["cat"])
    with pytest.raises(DataError, match="at least 2 classes"):
        data.load(str(tmp_path))


def tune(checkpoint, out, **settings):
    TuneSettings(checkpoint=checkpoint, out=out, **{"epochs": 2, "limit": 32, **settings}).run()
    return open_checkpoint(out)


@pytest.mark.slow
def test_accumulation_gives_the_update_of_the_whole_batch(small_checkpoint):
    whole = gradients_after(small_checkpoint, batch_size=8, accumulation=1)
    split = gradients_after(small_checkpoint, batch_size=4, accumulation=2)
    for ours, wanted in zip(split, whole, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=1e-4)


def gradients_after(path, *, batch_size, accumulation):
    """Return the summed gradients of one update of 8 rows, in eval mode."""
    from train.objectives import Gatekeeper, Step

    checkpoint = open_checkpoint(path)
    train = data.load("digits", limit=8).train
    pixels = checkpoint.pixel_values([train.inputs[i] for i in range(8)])
    labels = torch.from_numpy(train.labels)
    loss = Gatekeeper(0.5).loss
    for step in range(accumulation):
        rows = slice(step * batch_size, (step + 1) * batch_size)
        logits = checkpoint.model(pixel_values=pixels[rows]).logits
        loss(Step(logits, labels[rows], {}, 8)).backward()
    return [p.grad for p in checkpoint.model.parameters()]


@pytest.mark.slow
def test_fit_then_tune_learns_repeats_and_guards_its_output(tmp_path):
    fit = {"model": "small-cnn", "epochs": 12, "patience": 12}
    FitSettings(out=tmp_path / "a", **fit).run()
    FitSettings(out=tmp_path / "b", **fit).run()
    record = json.loads((tmp_path / "a" / "training.json").read_text())
    assert record["validation_accuracy"] > 0.6
    test = data.load("digits", limit=50).test
    first, second = (open_checkpoint(tmp_path / n).predict(test.inputs) for n in "ab")
    np.testing.assert_array_equal(first, second)
    tuned = tune(tmp_path / "a", tmp_path / "tuned")
    assert not np.array_equal(tuned.predict(test.inputs), first)
    with pytest.raises(OutputError, match="--overwrite"):
        tune(tmp_path / "a", tmp_path / "tuned")
    assert not list(tmp_path.glob(".*"))
