"""`train evaluate --second-look`: what the second view gains and costs, beside one view."""

import json

import numpy as np
import pytest
import torch

from edge_runtime import metrics
from train import data
from train.classifier.settings import EvaluateSettings
from train.errors import DataError
from train.models import build, open_checkpoint, save


@pytest.fixture(scope="module")
def views(small_checkpoint):
    """PyTorch's (first, second probability, right) of the test digits and their mirror images."""
    split, checkpoint = data.load("digits").test, open_checkpoint(small_checkpoint)
    pixels = checkpoint.pixel_values([split.inputs[i] for i in range(len(split))])
    with torch.inference_mode():
        one, two = (
            checkpoint.model(pixel_values=p).logits.double() for p in (pixels, pixels.flip(3))
        )
    first, prediction = one.softmax(-1).max(-1)
    second = two.softmax(-1).gather(-1, prediction[:, None])[:, 0]
    return first.numpy(), second.numpy(), prediction.numpy() == split.labels


def evaluate(checkpoint, out, **settings):
    EvaluateSettings(checkpoint=checkpoint, out=out, **settings).run()
    return json.loads(out.read_text())


def test_both_columns_are_measured(small_checkpoint, large_checkpoint, views, tmp_path, capsys):
    record = evaluate(
        small_checkpoint, tmp_path / "r.json", large=large_checkpoint, second_look="mirror"
    )
    first, second, right = views
    ordered = np.sort(first)
    low, high = ordered[[161, 323]]  # 809 inputs: ranks 161.8 to 323.6
    looked = np.where((first >= low) & (first <= high), (first + second) / 2, first)
    np.testing.assert_allclose(record["confidence"], first, atol=1e-6)
    np.testing.assert_allclose(record["confidence_second_look"], looked, atol=1e-6)
    assert record["second_look"]["passes"] == pytest.approx(1 + 163 / 809)
    figures = record["second_look"]["figures"]
    assert figures["AUROC"] == pytest.approx(metrics.auroc(looked, right), abs=1e-4)
    assert figures["acc(M_S)"] == record["figures"]["acc(M_S)"] == pytest.approx(right.mean())
    assert set(figures) == set(record["figures"]) >= {"s_d", "joint accuracy at 30%"}
    out = capsys.readouterr().out
    one, two = record["figures"]["AUROC"], figures["AUROC"]
    assert f"{'AUROC':28} {one:.4f}    {two:.4f}\n" in out
    assert f"{'forward passes per input':28} 1.0000    1.2015\n" in out


def test_the_band_may_hold_every_input_or_none(small_checkpoint, views, tmp_path):
    first, second, _ = views
    everything = evaluate(small_checkpoint, tmp_path / "1", second_look="mirror", band=1.0)
    looked = everything["confidence_second_look"]
    np.testing.assert_allclose(looked, (first + second) / 2, atol=1e-6)
    assert everything["second_look"]["passes"] == 2
    nothing = evaluate(small_checkpoint, tmp_path / "0", second_look="mirror", band=0.0)
    assert nothing["confidence_second_look"] == nothing["confidence"]
    assert nothing["second_look"]["passes"] == 1


def test_without_a_second_look_there_is_one_column(small_checkpoint, tmp_path, capsys):
    record = evaluate(small_checkpoint, tmp_path / "r.json")
    assert "second_look" not in record
    assert "second look" not in capsys.readouterr().out


def test_texts_have_no_mirror_image(small_checkpoint, tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("text,label\n" + "good,yes\nbad,no\n" * 10)
    with pytest.raises(DataError, match="expected pictures for --second-look mirror"):
        EvaluateSettings(
            checkpoint=small_checkpoint, data=str(tmp_path), second_look="mirror"
        ).run()


def test_evaluating_on_other_labels_is_refused(tmp_path):
    save(build("small-cnn", labels=list("abcdefghij"), image_size=(8, 8)), tmp_path / "letters")
    with pytest.raises(DataError, match="expected the 10 labels of"):
        EvaluateSettings(checkpoint=tmp_path / "letters", limit=20).run()


def test_an_undefined_overlap_comes_with_its_reason(small_checkpoint, views, tmp_path, capsys):
    # `--limit` keeps inputs evenly spaced.
    right = views[2]
    limit = next(n for n in range(2, 60) if right[np.arange(n) * len(right) // n].sum() == 1)
    record = evaluate(small_checkpoint, tmp_path / "r.json", limit=limit)
    assert np.isnan(record["figures"]["s_o"])
    says = f"note: s_o needs two right and two wrong inputs, got 1 and {limit - 1}\n"
    assert capsys.readouterr().out.endswith(says)
