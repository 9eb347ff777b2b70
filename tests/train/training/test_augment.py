"""Augmentation: what it does to a picture, what it leaves alone, and that it repeats."""

import json

import numpy as np
import pytest
import torch

from train import data
from train.classifier.batches import EncodedData
from train.classifier.settings import FitSettings, TuneSettings
from train.data import LabelledData
from train.errors import DataError
from train.models import build, open_checkpoint
from train.training.augment import KINDS, Augment, choose

LABELS = [str(i) for i in range(10)]


def batch(count, height, width, channels=3):
    """Return a batch whose pixels are all different."""
    size = count * channels * height * width
    pixels = torch.arange(size, dtype=torch.float32).reshape(count, channels, height, width)
    return pixels.contiguous(memory_format=torch.channels_last)


def variants(picture, *, shift, mirror):
    """Return (what was done, result) of every shift and mirror of float [c, h, w], by padding."""
    reaches = [side // 8 if shift else 0 for side in picture.shape[1:]]
    padded = np.pad(picture, [(0, 0), *((r, r) for r in reaches)], mode="edge")
    height, width = picture.shape[1:]
    for down in range(2 * reaches[0] + 1):
        for right in range(2 * reaches[1] + 1):
            moved = padded[:, down : down + height, right : right + width]
            yield (down - reaches[0], right - reaches[1], False), moved
            if mirror:
                yield (down - reaches[0], right - reaches[1], True), moved[:, :, ::-1]


def what_was_done(before, after, **kinds):
    found = [done for done, result in variants(before, **kinds) if np.array_equal(result, after)]
    assert len(found) == 1, "no shift and mirror of the picture, or several, give this"
    return found[0]


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_every_picture_is_one_shift_and_mirror_of_itself(shift, mirror):
    pixels = batch(400, 16, 9)
    after = Augment(shift, mirror, seed=1)(pixels, range(400))
    assert (after.shape, after.dtype) == (pixels.shape, torch.float32)
    assert after.is_contiguous(memory_format=torch.channels_last)
    pairs = zip(pixels.numpy(), after.numpy(), strict=True)
    done = [what_was_done(a, b, shift=shift, mirror=mirror) for a, b in pairs]
    down, right, mirrored = (set(values) for values in zip(*done, strict=True))
    assert down == ({-2, -1, 0, 1, 2} if shift else {0})
    assert right == ({-1, 0, 1} if shift else {0})
    assert mirrored == ({False, True} if mirror else {False})
    # Half of 400, within four deviations of 10.
    assert not mirror or 160 <= sum(flag for *_, flag in done) <= 240


def test_shifts_are_equally_frequent():
    pixels = batch(4000, 8, 1)
    after = Augment(shift=True, mirror=False, seed=0)(pixels, range(4000))
    first = (after[:, 0, 3, 0] - pixels[:, 0, 3, 0]).numpy()
    # Three shifts of 1333 each; the deviation is sqrt(4000 * 1/3 * 2/3) = 30.
    assert all(abs(np.sum(first == shift) - 4000 / 3) < 4 * 30 for shift in (-1, 0, 1))


@pytest.mark.parametrize("side", [1, 7])
def test_pictures_under_8_pixels_are_not_shifted(side):
    pixels = batch(20, side, side)
    assert torch.equal(Augment(shift=True, mirror=False)(pixels, range(20)), pixels)


def test_the_same_seed_and_rows_give_the_same_batch_and_others_do_not():
    pixels, rows = batch(32, 16, 16), list(range(32))
    once = Augment(shift=True, mirror=True, seed=5)(pixels, rows)
    torch.rand(3)  # the global source of random numbers has no part in it
    assert torch.equal(Augment(shift=True, mirror=True, seed=5)(pixels, rows), once)
    assert not torch.equal(Augment(shift=True, mirror=True, seed=6)(pixels, rows), once)
    assert not torch.equal(Augment(shift=True, mirror=True, seed=5)(pixels, rows[::-1]), once)


def test_the_global_source_of_random_numbers_is_left_alone():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the Trainer seeds it
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    Augment(shift=True, mirror=True)(batch(4, 8, 8), range(4))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def coloured(pictures, count=20):
    labels = np.arange(count) % 2
    ids = tuple(map(str, range(count)))
    return LabelledData(pictures, labels, ids, ("a", "b"))


GREY = [np.full((4, 4, 3), 9 * i, np.uint8) for i in range(20)]
COLOUR = [*GREY[:-1], np.array([[[1, 2, 3]] * 4] * 4, np.uint8)]
TEXTS = LabelledData(["x"] * 4, np.array([0, 1, 0, 1]), tuple("abcd"), ("a", "b"), "text")


@pytest.mark.parametrize(
    ("split", "kind", "reason"),
    [
        (coloured(GREY), "shift", "grey"),
        (coloured(COLOUR), "shift+mirror", "colour"),
        (TEXTS, "none", "texts"),
    ],
)
def test_auto_looks_at_the_data_and_says_what_it_took(split, kind, reason, capsys):
    chosen = choose("auto", split, seed=3)
    assert (chosen.kind if chosen else "none") == kind
    line = capsys.readouterr().out
    assert line.startswith(f"augmentation: {kind} (")
    assert reason in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_asked_for_is_taken_silently(kind, capsys):
    chosen = choose(kind, coloured(GREY), seed=3)
    assert (chosen.kind if chosen else "none") == kind
    assert capsys.readouterr().out == ""


def test_texts_are_not_shifted():
    assert choose("none", TEXTS, seed=0) is None
    with pytest.raises(DataError, match="none or auto for texts, got shift"):
        choose("shift", TEXTS, seed=0)


def test_a_batch_is_augmented_when_it_is_asked_for_and_the_pictures_stay(pictures):
    checkpoint = build("small-cnn", labels=LABELS, image_size=(8, 8))
    split = data.load("digits", limit=40).test
    plain = EncodedData(checkpoint, split)
    augment = Augment(shift=True, mirror=False, seed=2)
    varied = EncodedData(checkpoint, split, augment=augment)
    rows = [3, 1, 2, 0]
    for _ in range(2):
        found = varied.__getitems__(rows)
        wanted = plain.__getitems__(rows)
        assert torch.equal(found["labels"], wanted["labels"])
        assert not torch.equal(found["pixel_values"], wanted["pixel_values"])
        assert torch.equal(found["pixel_values"], augment(wanted["pixel_values"], rows))


def test_pictures_that_are_encoded_late_are_augmented_alike(monkeypatch):
    checkpoint = build("small-cnn", labels=LABELS, image_size=(8, 8))
    split = data.load("digits", limit=40).test
    augment = Augment(shift=True, mirror=True, seed=2)
    early = EncodedData(checkpoint, split, augment=augment)
    monkeypatch.setattr("train.classifier.batches._IN_MEMORY_BYTES", 0)
    late = EncodedData(checkpoint, split, augment=augment)
    rows = [3, 1, 2, 0]
    batches = [e.__getitems__(rows)["pixel_values"] for e in (early, late)]
    assert torch.equal(*batches)


@pytest.mark.slow
def test_training_says_what_it_took_repeats_and_differs_from_none(small_checkpoint, tmp_path):
    def fitted(name, augment):
        out = tmp_path / name
        FitSettings(out=out, epochs=2, limit=64, augment=augment).run()
        record = json.loads((out / "training.json").read_text())
        return record["augmentation"], open_checkpoint(out).model.state_dict()

    (kind, first), (_, again), (none, plain) = (
        fitted(name, augment) for name, augment in (("a", "auto"), ("b", "auto"), ("c", "none"))
    )
    assert (kind, none) == ("shift", "none")
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not all(torch.equal(value, plain[key]) for key, value in first.items())


@pytest.mark.slow
def test_tuning_is_augmented_where_asked(small_checkpoint, tmp_path):
    for name, flags in (("plain", {}), ("varied", {"augment": "shift+mirror"})):
        TuneSettings(
            checkpoint=small_checkpoint, out=tmp_path / name, epochs=1, limit=32, **flags
        ).run()
    records = [
        json.loads((tmp_path / n / "training.json").read_text()) for n in ("plain", "varied")
    ]
    assert [record["augmentation"] for record in records] == ["none", "shift+mirror"]
