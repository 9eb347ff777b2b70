"""Bad masks, data sets and checkpoints: each is refused in words or handled as it says."""

import json
import shutil

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tools.processes import contents

from train import GatekeeperLoss, data, gatekeeper_loss, linear_gatekeeper_loss
from train.classifier.loop import train_checkpoint
from train.classifier.settings import EvaluateSettings, FitSettings
from train.errors import CheckpointError, DataError, TrainingError
from train.models import build, open_checkpoint, save
from train.objectives import CrossEntropy
from train.training.schedule import Schedule

LABELS = [str(i) for i in range(10)]


def test_an_integer_attention_mask_means_the_same_as_a_boolean_one():
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 3, 4), torch.randn(5, 4)
    labels, mask = torch.tensor([[0, 1, 2], [3, 4, 0]]), torch.tensor([[1, 1, 0], [1, 0, 0]])
    for loss in (
        lambda m: gatekeeper_loss(hidden @ weight.T, labels, 0.5, mask=m),
        lambda m: linear_gatekeeper_loss(hidden, weight, labels, 0.5, mask=m),
    ):
        assert loss(mask).item() == loss(mask.bool()).item()


def test_a_mask_of_another_shape_is_refused():
    hidden, weight, labels = torch.zeros(2, 3, 4), torch.zeros(5, 4), torch.zeros(2, 3).long()
    with pytest.raises(ValueError, match="mask of shape"):
        linear_gatekeeper_loss(hidden, weight, labels, 0.5, mask=torch.ones(3).bool())


def test_impossible_classes_get_no_gradient():
    impossible = float("-inf")
    logits = torch.tensor([[2.0, impossible, 0.0], [2.0, impossible, 0.0]], requires_grad=True)
    gatekeeper_loss(logits, torch.tensor([0, 1]), 0.3).backward()
    assert torch.isfinite(logits.grad).all()
    assert torch.equal(logits.grad[:, 1], torch.zeros(2))


def test_the_loss_module_refuses_alpha_on_creation():
    with pytest.raises(ValueError, match="alpha in"):
        GatekeeperLoss(1.5)


def test_the_chunked_loss_equals_the_dense_one_in_float32():
    torch.manual_seed(1)
    leaves = [torch.randn(6, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)]
    labels = torch.arange(6)
    chunked = linear_gatekeeper_loss(*leaves, labels, 0.4, chunk_tokens=4)
    dense = gatekeeper_loss(leaves[0] @ leaves[1].T, labels, 0.4)
    torch.testing.assert_close(chunked, dense, atol=1e-5, rtol=0)
    pairs = zip(
        torch.autograd.grad(chunked, leaves), torch.autograd.grad(dense, leaves), strict=True
    )
    for ours, wanted in pairs:
        torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)


def write_folder(path, count=12):
    draws = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
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


def test_a_picture_that_does_not_decode_is_refused_when_it_is_asked_for(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "test" / "cat" / "0.png").write_bytes(b"no picture")
    test = data.load(str(tmp_path)).test
    with pytest.raises(DataError, match="unreadable"):
        test.array()


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "pictures.parquet"])
def test_a_missing_path_is_refused_without_asking_the_hub(name):
    with pytest.raises(DataError, match="nothing is there"):
        data.load(name)


def edit_config(path, **changes):
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_labels_that_do_not_count_from_zero_are_refused(small_checkpoint, tmp_path):
    path = shutil.copytree(small_checkpoint, tmp_path / "copy")
    names = {str(i + 1): name for i, name in enumerate(LABELS)}
    edit_config(path, id2label=names, label2id={v: int(k) for k, v in names.items()})
    with pytest.raises(CheckpointError, match="id2label"):
        open_checkpoint(path)


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


def test_no_pictures_give_no_logits():
    assert build("small-cnn", labels=LABELS, image_size=(8, 8)).predict([]).shape == (0, 10)


def test_evaluating_on_other_labels_is_refused(tmp_path):
    save(build("small-cnn", labels=list("abcdefghij"), image_size=(8, 8)), tmp_path / "letters")
    with pytest.raises(DataError, match="expected the 10 labels of"):
        EvaluateSettings(checkpoint=tmp_path / "letters", limit=20).run()


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
    write_parquet(tmp_path / "train.parquet", [0, 2] * 10)
    data.load(str(tmp_path))
    assert "1 of 3 classes" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True])
def test_a_loss_that_leaves_the_numbers_stops_the_run(kept, tmp_path):
    settings = {"epochs": 3, "limit": 64, "batch_size": 8, "overwrite": kept}
    if kept:
        FitSettings(out=tmp_path / "out", **settings).run()
    before = contents(tmp_path / "out")
    with pytest.raises(TrainingError, match="--learning-rate"):
        FitSettings(out=tmp_path / "out", learning_rate=1e30, **settings).run()
    assert contents(tmp_path / "out") == before
    assert bool(before) == kept


@pytest.mark.slow
def test_a_loss_that_is_nan_later_keeps_the_epochs_before_it(small_checkpoint, tmp_path):
    splits = data.load("digits", limit=64)
    calls = iter(range(10_000))

    class Breaks(CrossEntropy):
        def loss(self, step):
            good = super().loss(step)
            return good if next(calls) < 8 else good * float("nan")

    schedule = Schedule(
        epochs=5, batch_size=16, learning_rate=1e-3, weight_decay=0.0, scheduler="cosine"
    )
    with pytest.raises(TrainingError, match="keeps the last good epoch"):
        train_checkpoint(
            open_checkpoint(small_checkpoint),
            splits,
            Breaks(),
            schedule,
            out=tmp_path / "out",
            resume=False,
            overwrite=False,
            record={},
        )
    # 64 pictures, 16 a step: two epochs of four steps were good.
    assert [p.name for p in (tmp_path / ".out.training").glob("checkpoint-*")] == ["checkpoint-8"]
