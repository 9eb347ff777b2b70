"""Inputs that are added to the training split, with and without labels."""

import datasets
import numpy as np
import pytest
from PIL import Image

from train import data
from train.data import NO_LABEL
from train.errors import DataError

pytestmark = pytest.mark.once

LABELS = [str(i) for i in range(10)]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=40)


def write_pictures(folder, pictures):
    folder.mkdir(parents=True)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i}.png")


def test_pictures_without_labels_are_found_in_any_folder(pictures, digits, tmp_path):
    write_pictures(tmp_path / "flat", pictures[:3])
    write_pictures(tmp_path / "deep" / "monday" / "morning", pictures[:4])
    write_pictures(tmp_path / "split" / "train" / "cat", pictures[:5])
    write_pictures(tmp_path / "split" / "test" / "cat", pictures[:6])
    for name, count in (("flat", 3), ("deep", 4), ("split", 5)):
        found = data.load_unlabelled(str(tmp_path / name), digits.label_names)
        assert found.labels.tolist() == [NO_LABEL] * count
        np.testing.assert_array_equal(found.inputs[2], pictures[2])
    assert len(data.load_unlabelled(str(tmp_path / "deep"), digits.label_names, limit=2)) == 2


def test_tables_without_labels_are_data_without_labels(pictures, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    texts = data.load_unlabelled(str(tmp_path / "texts.jsonl"), ("x", "y"))
    assert (texts.kind, list(texts.inputs), len(set(texts.ids))) == ("text", ["a", "b"], 2)
    rows = {"image": [Image.fromarray(p) for p in pictures[:3]]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train-0.parquet")
    found = data.load_unlabelled(str(tmp_path), ("x", "y"))
    np.testing.assert_array_equal(found.inputs[1], pictures[1])
    assert len(data.load_unlabelled("digits-more", tuple(LABELS))) == 629


def test_what_holds_no_inputs_is_refused(digits, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("colour,label\nred,a\n")
    for name, says in (("empty", "expected pictures"), ("table.csv", r"expected a column image")):
        with pytest.raises(DataError, match=says):
            data.with_unlabelled(digits, str(tmp_path / name))
    with pytest.raises(DataError, match="nothing is there"):
        data.with_unlabelled(digits, str(tmp_path / "none"))
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match=r"expected images as in the data, got texts"):
        data.with_unlabelled(digits, str(tmp_path / "texts.jsonl"))


def write_table(path, pictures, labels, names):
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    rows = {"image": [Image.fromarray(p) for p in pictures], "label": labels}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    table.to_parquet(path)
    return str(path)


def test_extra_rows_join_train_alone_with_their_classes_matched_by_name(pictures, digits, tmp_path):
    name = write_table(tmp_path / "a.parquet", pictures[:3], [0, 1, 0], ["7", "2"])
    more = data.with_extra(digits, name)
    assert more.train.labels.tolist() == [*digits.train.labels.tolist(), 7, 2, 7]
    assert len(set(more.train.ids)) == len(digits.train) + 3
    for row in (0, len(digits.train) - 1):
        np.testing.assert_array_equal(more.train.inputs[row], digits.train.inputs[row])
    np.testing.assert_array_equal(more.train.inputs[len(digits.train) + 2], pictures[2])
    np.testing.assert_array_equal(more.train.inputs[-3:][1], pictures[1])
    assert more.validation is digits.validation
    assert more.test is digits.test
    assert data.with_extra(digits, None) is digits


def test_extra_rows_of_other_classes_or_another_kind_are_refused(pictures, digits, tmp_path):
    name = write_table(tmp_path / "a.parquet", pictures[:2], [0, 1], ["7", "cat"])
    with pytest.raises(DataError, match=r"only the 10 classes .* got also \['cat'\]"):
        data.with_extra(digits, name)
    (tmp_path / "texts.jsonl").write_text('{"text": "a", "label": "7"}\n')
    with pytest.raises(DataError, match="expected images as in the data"):
        data.with_extra(digits, str(tmp_path / "texts.jsonl"))


def test_a_label_of_minus_100_in_a_table_is_refused(pictures, tmp_path):
    rows = {"image": [Image.fromarray(p) for p in pictures[:4]], "label": [0, 1, 0, -100]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="label in every row"):
        data.load(str(tmp_path / "a.parquet"))
