"""Every published layout, written small, and the damage each may have."""

import os
import pickle
import unicodedata

import datasets
import numpy as np
import pytest
from PIL import Image

from train import data
from train.errors import DataError

pytestmark = pytest.mark.once

DRAWS = np.random.default_rng(7)
CLASSES = ("apple pie", "waffles")


def picture(path, *, size=(6, 5), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = DRAWS.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def cifar_batch(path, key, labels):
    pixels = DRAWS.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    # The published files were written by Python 2: protocol 2, keys of bytes.
    path.write_bytes(pickle.dumps({b"data": pixels, key: labels}, protocol=2))
    return pixels


def cifar10(folder):
    folder.mkdir(exist_ok=True)
    names = pickle.dumps({b"label_names": [b"plane", b"car"]}, protocol=2)
    (folder / "batches.meta").write_bytes(names)
    train = [cifar_batch(folder / f"data_batch_{i}", b"labels", [0, 1] * 4) for i in range(1, 6)]
    return train, cifar_batch(folder / "test_batch", b"labels", [1, 0])


def tiny_imagenet(folder):
    names = ["n01443537", "n01629819"]
    for name in names:
        for i in range(20):
            picture(folder / "train" / name / "images" / f"{name}_{i}.JPEG")
    for i in range(4):
        picture(folder / "val" / "images" / f"val_{i}.JPEG")
    # In another order than the folders: a reader of folder names would number them otherwise.
    (folder / "wnids.txt").write_text("\n".join(reversed(names)) + "\n")
    rows = [f"val_{i}.JPEG\t{names[i % 2]}\t0\t0\t5\t4\n" for i in range(4)]
    (folder / "val" / "val_annotations.txt").write_text("".join(rows))


def food101(folder):
    (folder / "meta").mkdir(parents=True)
    names = ["apple_pie", "waffles"]
    (folder / "meta" / "classes.txt").write_text("\n".join(names))
    for split, n in (("train", 20), ("test", 2)):
        entries = [f"{name}/{split}{i}" for name in names for i in range(n)]
        (folder / "meta" / f"{split}.txt").write_text("\n".join(entries))
        for entry in entries:
            picture(folder / "images" / f"{entry}.jpg")


def test_cifar10_batches_give_the_pixels_channel_by_channel(tmp_path):
    train, test = cifar10(tmp_path / "c")
    splits = data.load(str(tmp_path / "c"))
    assert splits.label_names == ("plane", "car")
    # Four inputs (10 %) are carved out as validation.
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (36, 4, 2)
    assert splits.test.labels.tolist() == [1, 0]
    first = test[0].reshape(3, 32, 32)
    assert splits.test.inputs[0][3, 17].tolist() == first[:, 3, 17].tolist()
    everything = data.load_all(str(tmp_path / "c"))
    assert np.array_equal(everything.inputs[8][..., 1].ravel(), train[1][0][1024:2048])


def test_cifar100_gives_its_fine_classes(tmp_path):
    (tmp_path / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"a", b"b"]}, protocol=2))
    cifar_batch(tmp_path / "train", b"fine_labels", [0, 1] * 20)
    cifar_batch(tmp_path / "test", b"fine_labels", [0, 1])
    splits = data.load(str(tmp_path))
    assert splits.label_names == ("a", "b")
    assert len(splits.test) == 2


def test_a_batch_that_would_run_code_is_refused_and_runs_none(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    cifar10(tmp_path / "c")
    (tmp_path / "c" / "data_batch_3").write_bytes(pickle.dumps({b"data": Attack()}, protocol=2))
    with pytest.raises(DataError, match=r"mkdir: refused"):
        data.load(str(tmp_path / "c"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:4000]), "damaged"),
        (lambda path: path.write_bytes(b"no pickle"), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(pickle.dumps([1, 2])), "not a batch of CIFAR"),
        (lambda path: path.write_bytes(pickle.dumps({b"labels": [0]})), "expected data in"),
        (lambda path: path.write_bytes(pickle.dumps({b"data": 1, b"labels": [[]]})), "a list of"),
        (
            lambda path: path.write_bytes(
                pickle.dumps({b"labels": [0, 1], b"data": np.zeros((1, 3072), np.uint8)})
            ),
            r"expected uint8 \[2, 3072\]",
        ),
    ],
)
def test_a_damaged_batch_is_named(tmp_path, damage, message):
    cifar10(tmp_path / "c")
    damage(tmp_path / "c" / "data_batch_2")
    with pytest.raises(DataError, match=message) as caught:
        data.load(str(tmp_path / "c"))
    assert "data_batch_2" in str(caught.value)


def test_tiny_imagenet_numbers_its_classes_as_wnids_does(tmp_path):
    tiny_imagenet(tmp_path)
    splits = data.load(str(tmp_path))
    assert splits.label_names == ("n01629819", "n01443537")
    assert splits.validation.labels.tolist() == [1, 0, 1, 0]
    # The test pictures have no labels: a tenth of train takes their place.
    assert (len(splits.train), len(splits.test)) == (36, 4)
    assert splits.validation.inputs[3].shape == (5, 6, 3)


def test_a_class_that_is_listed_twice_is_named(tmp_path):
    tiny_imagenet(tmp_path)
    with (tmp_path / "wnids.txt").open("a") as file:
        file.write("n01443537\n")
    with pytest.raises(DataError, match=r"each class once in .*wnids\.txt, got n01443537 twice"):
        data.load(str(tmp_path))


def test_an_annotation_of_tiny_imagenet_without_a_class_is_named(tmp_path):
    tiny_imagenet(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01443537\nval_1.JPEG\n")
    with pytest.raises(DataError, match="line 2"):
        data.load(str(tmp_path))


def test_food101_follows_its_lists(tmp_path):
    food101(tmp_path)
    splits = data.load(str(tmp_path))
    assert splits.label_names == ("apple_pie", "waffles")
    assert splits.test.ids == (
        "apple_pie/test0",
        "apple_pie/test1",
        "waffles/test0",
        "waffles/test1",
    )
    assert (len(splits.train), len(splits.validation)) == (36, 4)


def test_a_listed_picture_that_is_missing_is_named(tmp_path):
    food101(tmp_path)
    (tmp_path / "images" / "waffles" / "test1.jpg").unlink()
    with pytest.raises(DataError, match=r"waffles/test1\.jpg"):
        data.load(str(tmp_path)).test.array()


def test_hugging_face_parquet_keeps_the_declared_class_names(tmp_path):
    features = datasets.Features(
        {"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=list(CLASSES))}
    )
    pictures = [Image.fromarray(np.full((4, 4, 3), i, np.uint8)) for i in range(40)]
    table = datasets.Dataset.from_dict(
        {"img": pictures, "fine_label": [i % 2 for i in range(40)]}, features=features
    )
    table.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    table.select(range(2)).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    splits = data.load(str(tmp_path))
    assert splits.label_names == CLASSES
    assert splits.test.inputs[1][0, 0].tolist() == [1, 1, 1]


def test_splits_are_matched_by_the_names_of_their_classes(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n" + "a b,no\nc d,perhaps\ne f,yes\n" * 10)
    # On its own, this split would number yes as 1.
    (tmp_path / "test.csv").write_text("text,label\nx,no\ny,yes\n")
    splits = data.load(str(tmp_path))
    assert splits.label_names == ("no", "perhaps", "yes")
    assert splits.test.labels.tolist() == [0, 2]


TEXTS = [("good phone", "yes"), ("bad phone", "no")] * 20


def write_texts(path):
    texts, labels = zip(*TEXTS, strict=True)
    table = datasets.Dataset.from_dict({"text": list(texts), "label": list(labels)})
    {".csv": table.to_csv, ".jsonl": table.to_json, ".parquet": table.to_parquet}[path.suffix](path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_texts_come_from_any_table(tmp_path, suffix):
    write_texts(tmp_path / f"reviews{suffix}")
    splits = data.load(str(tmp_path / f"reviews{suffix}"))
    assert splits.train.kind == "text"
    assert splits.label_names == ("no", "yes")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (32, 4, 4)
    assert {
        (t, splits.label_names[n])
        for t, n in zip(splits.test.inputs, splits.test.labels, strict=True)
    } == set(TEXTS)


def test_the_words_none_and_null_are_texts_and_labels(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + 'null,None\n"two\nlines",NA\n' * 20)
    splits = data.load(str(tmp_path / "a.csv"))
    assert splits.label_names == ("NA", "None")
    assert set(splits.train.inputs) == {"null", "two\nlines"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x", "label": "a"}\n{"text": "y", "la\n', r"line 2 of .*a\.jsonl"),
        ("a.csv", "text,label\nx,a\n ,b\n", "row 1 has none"),
        ("a.csv", "text,label\nx,a\n,b\n", "row 1 has none"),
        ("a.csv", "text,label\nx,a\ny,\n", "expected a label in every row of train, row 1"),
        ("a.csv", "text,label\nx,a\ny\n", r"2 columns as in the header in line 3 of .*a\.csv"),
        ("a.csv", "x,a\ny,b\n", "on the first line of a csv file"),
        ("a.csv", "", r"expected a column image.* got \[\]"),
        ("a.parquet", "no parquet", "expected a parquet table"),
        ("a.txt", "x", r"expected a file \.parquet"),
        ("a.csv", "text,label\nx,a\ny,a\nz,a\nw,a\n", "at least 2 classes"),
        ("a.csv", "text,label\nx,a\ny,b\n", "at least two inputs of a class"),
    ],
)
def test_a_table_that_cannot_be_used_says_where(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        data.load(str(tmp_path / name))


def test_a_class_that_test_lacks_is_noted(tmp_path, capsys):
    (tmp_path / "train.csv").write_text("text,label\n" + "a,no\nb,yes\n" * 20)
    (tmp_path / "test.csv").write_text("text,label\na,no\nb,no\n")
    data.load(str(tmp_path))
    assert "1 of 2 classes" in capsys.readouterr().err


def test_a_folder_in_no_layout_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"found notes\.txt"):
        data.load(str(tmp_path))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_pictures_of_every_mode_become_rgb(tmp_path, mode):
    ending = "jpg" if mode == "CMYK" else "png"
    for name in ("cat", "dog"):
        for i in range(10):
            path = tmp_path / name / f"{i}.{ending}"
            picture(path, mode="L" if mode == "I;16" else mode)
            if mode == "I;16":
                Image.fromarray(np.full((5, 6), 128 * 257, np.uint16)).save(path)
    first = data.load(str(tmp_path)).train.inputs[0]
    assert first.shape == (5, 6, 3)
    assert first.dtype == np.uint8
    if mode == "I;16":
        assert (first == 128).all()


def test_a_picture_of_one_pixel_and_one_of_20000_are_read(tmp_path):
    for name in ("cat", "dog"):
        for i in range(10):
            picture(tmp_path / name / f"{i}.png", size=(1, 1))
    picture(tmp_path / "cat" / "long.png", size=(20_000, 3))
    everything = data.load_all(str(tmp_path))
    shapes = {everything.inputs[i].shape for i in range(len(everything))}
    assert shapes == {(1, 1, 3), (3, 20_000, 3)}


@pytest.mark.parametrize(
    ("name", "kind", "classes", "test"),
    [
        ("cifar10", "image", 10, 10_000),
        ("fashion_mnist", "image", 10, 5_000),
        ("banking77", "text", 77, 3_080),
        ("clinc150", "text", 151, 5_500),
    ],
)
def test_the_published_files_open(real_data, name, kind, classes, test):
    splits = data.load(str(real_data / name))
    assert (splits.test.kind, len(splits.label_names), len(splits.test)) == (kind, classes, test)
    assert len(splits.test.inputs[test - 1]) > 0


def test_classes_and_pictures_may_have_any_names_that_a_system_allows(tmp_path):
    apart = unicodedata.normalize("NFD", "été")
    for place in (apart, "zoo", os.fsdecode(b"k\xe9t")):
        for number in range(3):
            picture(tmp_path / "data" / place / os.fsdecode(b"p\xff%d.png" % number))
    splits = data.load(str(tmp_path / "data"))
    # In the order of the composed names, as on a system that writes them composed.
    assert splits.label_names == (r"k\xe9t", "zoo", "été")
    assert splits.train.inputs[0].shape == (5, 6, 3)
    assert all(i.isprintable() for i in splits.train.ids)
    assert len(splits.fingerprint()) == 64


def test_names_of_one_class_in_two_forms_are_one_class(tmp_path):
    file = tmp_path / "train.csv"
    rows = [f"text {i},{unicodedata.normalize(form, 'été')}" for i, form in enumerate(FORMS)]
    file.write_text("\n".join(["text,label", *rows, *(f"{i},zoo" for i in range(4))]))
    assert data.load_train(str(file)).label_names == ("zoo", "été")


FORMS = ("NFC", "NFD", "NFC", "NFD")


def test_a_list_of_classes_may_have_a_byte_order_mark(tmp_path):
    tiny_imagenet(tmp_path)
    file = tmp_path / "wnids.txt"
    file.write_bytes(file.read_text().encode("utf-8-sig"))
    assert data.load_train(str(tmp_path)).label_names[0][0] == "n"
