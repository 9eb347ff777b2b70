"""Data sets by name: their splits, and what is refused."""

import socket

import datasets
import numpy as np
import pytest
from PIL import Image

from train import data
from train.data import hub
from train.data.sets import load
from train.errors import DataError

pytestmark = pytest.mark.once


def write_folder(path, classes=("cat", "dog"), count=12):
    draws = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            folder = path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = draws.integers(0, 256, (6, 7), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")


def write_parquet(path, labels, column="label"):
    pictures = [Image.fromarray(np.full((5, 4, 3), 9, np.uint8)) for _ in labels]
    datasets.Dataset.from_dict({"image": pictures, column: labels}).to_parquet(path)
    return path


def test_a_limit_keeps_every_class_of_a_sorted_folder(tmp_path):
    write_folder(tmp_path)
    splits = data.load(str(tmp_path), limit=6)
    assert len(splits.train) == len(splits.test) == 6
    assert set(splits.train.labels) == set(splits.test.labels) == {0, 1}


def test_a_parquet_file_is_a_data_set(tmp_path):
    splits = data.load(str(write_parquet(tmp_path / "all.parquet", [0, 1] * 20)))
    # 20 a class: a tenth (2 a class) is the test, a tenth of the other 18 (2 a class) validation.
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [32, 4, 4]
    assert splits.test.array().shape == (4, 5, 4, 3)


def test_fractional_labels_are_refused(tmp_path):
    with pytest.raises(DataError, match="whole numbers or names"):
        data.load(str(write_parquet(tmp_path / "a.parquet", [0.5, 1.5] * 3)))


def test_a_missing_label_column_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a column image.* and a column label"):
        data.load(str(write_parquet(tmp_path / "a.parquet", [0, 1] * 3, column="kind")))


def test_a_negative_label_is_out_of_range(tmp_path):
    with pytest.raises(DataError, match="labels from 0"):
        data.load(str(write_parquet(tmp_path / "a.parquet", [-1, 0, 1] * 3)))


def test_a_test_class_that_train_lacks_is_refused(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1] * 3)
    write_parquet(tmp_path / "test.parquet", [0, 4] * 3)
    with pytest.raises(DataError, match="classes of train"):
        data.load(str(tmp_path))


def test_a_picture_that_does_not_decode_is_refused_on_access(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "test" / "cat" / "0.png").write_bytes(b"no picture")
    test = data.load(str(tmp_path)).test
    with pytest.raises(DataError, match="unreadable"):
        test.array()


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "pictures.parquet"])
def test_a_missing_path_is_refused_without_asking_the_hub(name):
    with pytest.raises(DataError, match="nothing is there"):
        data.load(name)


def test_fewer_samples_than_classes_are_refused(tmp_path):
    names = [str(i) for i in range(8)]
    labels = [0, 1] * 3
    pictures = [Image.fromarray(np.full((5, 4, 3), 9, np.uint8)) for _ in labels]
    kinds = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    table = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=kinds)
    for split in ("train", "validation", "test"):
        table.to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match=r"each of the 8 classes of .*, got 6 inputs of 2"):
        data.load(str(tmp_path))


def test_a_class_that_train_lacks_is_noted(tmp_path, capsys):
    kinds = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    )
    table = datasets.Dataset.from_dict({"text": ["x"] * 20, "label": [0, 2] * 10}, features=kinds)
    table.to_parquet(tmp_path / "train.parquet")
    data.load(str(tmp_path))
    assert "1 of 3 classes" in capsys.readouterr().err


def test_digits_splits_share_no_picture():
    small, more = data.load("digits"), data.load("digits-more")
    assert len(small.test) > 700
    assert small.test.ids == more.test.ids
    assert set(small.train.ids) < set(more.train.ids)
    parts = [set(part.ids) for part in (more.train, more.validation, more.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 1797


def test_a_folder_of_grey_pictures_is_a_data_set(tmp_path):
    write_folder(tmp_path)
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


def test_what_a_system_put_among_pictures_is_neither_a_class_nor_a_picture(tmp_path):
    write_folder(tmp_path)
    hidden = ["__MACOSX/train/cat/._0.png", "train/cat/._0.png", "train/.ipynb_checkpoints/a.png"]
    hidden += ["train/@eaDir/0.png", "train/__MACOSX/0.png", "test/dog/.thumbnail.png"]
    for name in hidden:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    everything = data.load_all(str(tmp_path))
    assert everything.label_names == ("cat", "dog")
    assert everything.array().shape == (48, 6, 7, 3)
    for split in ("train", "test"):
        (tmp_path / split).rename(tmp_path / f"{split}-old")
    (tmp_path / "train-old").rename(tmp_path / "all")
    assert len(data.load_unlabelled(str(tmp_path / "all"), ("cat", "dog"))) == 24


def test_a_folder_with_nothing_but_hidden_ones_is_no_folder_of_pictures(tmp_path):
    (tmp_path / "__MACOSX" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="expected parquet, csv"):
        data.load(str(tmp_path))


def test_linked_folders_of_pictures_are_read(tmp_path):
    write_folder(tmp_path / "disk")
    (tmp_path / "set").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "disk" / "train" / name)
    assert len(data.load_all(str(tmp_path / "set"))) == 24
    assert len(data.load_unlabelled(str(tmp_path / "set"), ("cat", "dog"))) == 24


def test_a_class_whose_link_leads_nowhere_is_named(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / "emu").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"behind the link .*emu, it leads nowhere"):
        data.load(str(tmp_path))


def test_a_folder_inside_that_of_a_class_is_noted(tmp_path, capsys):
    write_folder(tmp_path)
    (tmp_path / "train" / "cat" / "more").mkdir()
    data.load(str(tmp_path))
    assert "more is not read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "is_name"),
    [
        ("cifar10", True),
        ("org/cifar-10.v2", True),
        ("./nope", False),
        ("~/nope", False),
        ("a/b/c", False),
        ("org/", False),
        ("C:\\data", False),
        ("data.csv", False),
        ("org/model.onnx", False),
    ],
)
def test_a_hub_is_asked_for_names_alone(text, is_name):
    assert hub.is_name(text) is is_name


def test_a_mistyped_path_in_a_folder_that_is_here_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.is_name("photos/cats")
    (tmp_path / "photos").mkdir()
    assert not hub.is_name("photos/cats")


def test_a_hub_that_is_not_reachable_is_not_asked_again_and_again(monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        says = r"'org/none' is no file or folder here, .* 127\.0\.0\.1 is not reachable"
        with pytest.raises(DataError, match=says):
            load("org/none")
