"""What a fit chooses by its data: model, size of the input and learning rate."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tools.processes import refused_here

from train.__main__ import COMMANDS
from train.classifier.plan import choose_model, input_size, tuning_rate, with_choices
from train.classifier.settings import FitSettings
from train.data import LabelledData
from train.errors import DataError
from train.models import build, open_checkpoint, save


def photographs(sizes):
    pictures = [np.zeros((height, width, 3), np.uint8) for width, height in sizes]
    count = len(pictures)
    return LabelledData(pictures, np.zeros(count, np.int64), tuple(map(str, range(count))), ("a",))


@pytest.mark.parametrize(
    ("sizes", "size"),
    [
        ([(8, 8)] * 9, (8, 8)),
        ([(64, 32)] * 9, (32, 64)),
        ([(224, 224)] * 9, (224, 224)),
        ([(500, 375)] * 9, (160, 160)),
        ([(20, 20), *[(4000, 3000)] * 9], (160, 160)),  # never that of the first one
        ([(70, 90), (100, 130)] * 5, (64, 64)),
        ([(20, 30), (30, 20)] * 5, (32, 32)),
    ],
)
def test_the_input_fits_the_pictures(sizes, size):
    assert input_size(photographs(sizes)) == size


@pytest.mark.parametrize(("side", "name"), [(8, "small-cnn"), (64, "mobilenetv3-small")])
def test_the_model_fits_the_size(side, name, tmp_path):
    settings = FitSettings(out=tmp_path)
    assert choose_model(settings, photographs([(side, side)] * 2)) == (name, (side, side))


def test_there_is_no_default_for_texts(tmp_path):
    texts = LabelledData(["x"], np.zeros(1, np.int64), ("0",), ("a",), "text")
    with pytest.raises(DataError, match="expected --model with the folder of a text classifier"):
        choose_model(FitSettings(out=tmp_path), texts)


def rate_of(model, settings, labels=("a", "b")):
    return with_choices(settings, build(model, labels=labels), model).learning_rate


@pytest.mark.slow
def test_the_rate_fits_the_start(small_checkpoint, text_models, tmp_path):
    settings = FitSettings(out=tmp_path)
    assert rate_of("small-cnn", settings) == 3e-3
    assert rate_of(str(small_checkpoint), settings) == 3e-4
    assert rate_of(str(text_models[0]), settings) == 5e-5
    untrained = shutil.copytree(text_models[0], tmp_path / "untrained")
    (untrained / "model.safetensors").unlink()
    assert rate_of(str(untrained), settings) == 1e-3
    assert rate_of("small-cnn", FitSettings(out=tmp_path, learning_rate=0.5)) == 0.5


@pytest.mark.parametrize(
    ("record", "rate"),
    [
        ({"command": "fit", "settings": {"learning_rate": 0.5}}, 0.25),
        ({"command": "tune", "settings": {"learning_rate": 0.5}}, 0.5),
        ({"command": "convert", "settings": {}}, 1.5e-4),
        ({"command": "fit", "settings": {"learning_rate": "NaN"}}, 1.5e-4),
        ([], 1.5e-4),
    ],
)
def test_tuning_takes_half_the_rate_of_the_fit(record, rate, tmp_path):
    save(build("small-cnn", labels=("a", "b")), tmp_path / "start", extra=record)
    assert tuning_rate(open_checkpoint(tmp_path / "start")) == rate


def write_damaged(folder, damaged=3):
    draws = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = draws.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.jpg")
    for number in range(damaged):
        path = folder / "cat" / f"{number:02}.jpg"
        path.write_bytes(path.read_bytes()[: 200 * number])


@pytest.mark.slow
def test_damaged_pictures_are_counted_and_skipped_where_asked(tmp_path, capfd):
    write_damaged(tmp_path / "data")
    line = ["fit", "--data", tmp_path / "data", "--out", tmp_path / "out", "--epochs", "1"]
    says = "3 of 40 pictures do not decode; a picture of the data is unreadable"
    refused_here("train", COMMANDS, line, capfd, says=says)
    (tmp_path / "data" / "dog" / "x.HEIC").write_bytes(b"x")
    FitSettings(
        data=str(tmp_path / "data"), out=tmp_path / "out", epochs=1, skip_unreadable=True
    ).run()
    shown = capfd.readouterr()
    assert "3 pictures are skipped" in shown.err
    assert "1 .heic" in shown.err
    assert "small-cnn at 32 x 32 pixels, 136,450 parameters, learning rate 0.003" in shown.out
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert sum(record["inputs"].values()) == 37
    assert record["settings"]["model"] == "small-cnn"
