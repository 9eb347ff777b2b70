"""Deferred pictures are encoded before they are sent; a message above the limit is not sent."""

import io

import numpy as np
import pytest
from PIL import Image
from tools.engines import Engine

from edge_runtime import Cascade, DeferralBudget, Policy, Recorder, SettingError, Source
from edge_runtime.cloud.outgoing import Compression, Outgoing
from edge_runtime.inputs.batches import Batch, max_request_bytes

RAMP = np.linspace(0, 255, 640, dtype=np.uint8)
FRAME = np.stack([np.tile(RAMP, (480, 1))] * 3, axis=-1)
"""A smooth picture of 0.9 MB."""
ROWS = np.arange(1)


class Files:
    """A large model that decodes files."""

    takes_files = True


class Arrays:
    """A large model that takes arrays alone."""

    takes_files = False


def decoded(data):
    with Image.open(io.BytesIO(data)) as picture:
        return picture.format, picture.size, np.asarray(picture)


def sent(compression, batch, cloud=Files, rows=ROWS, **limits):
    return Outgoing(compression, **limits).payload(batch, rows, cloud, {})


def test_a_frame_is_sent_as_a_small_jpeg_and_budgeted_as_such():
    payload, size = sent(Compression("jpeg"), Batch(FRAME[None], None))
    form, side, pixels = decoded(payload[0])
    assert (form, side) == ("JPEG", (640, 480))
    assert np.abs(pixels.astype(int) - FRAME).max() < 8
    assert size == max_request_bytes(payload) < FRAME.nbytes / 20


def test_a_png_changes_no_pixel():
    payload, _ = sent(Compression("png"), Batch(FRAME[None], None))
    form, _, pixels = decoded(payload[0])
    assert form == "PNG"
    np.testing.assert_array_equal(pixels, FRAME)


@pytest.mark.parametrize(
    ("most", "expected"), [(320, (320, 240)), (640, (640, 480)), (999, (640, 480))]
)
def test_larger_pictures_are_scaled_down(most, expected):
    payload, _ = sent(Compression("jpeg", max_side=most), Batch(FRAME[None], None))
    assert decoded(payload[0])[1] == expected


@pytest.mark.parametrize(
    ("form", "most", "is_kept"),
    [("JPEG", None, True), ("PNG", 640, True), ("BMP", None, False), ("JPEG", 600, False)],
)
def test_a_file_is_kept_where_it_is_small_already(form, most, is_kept):
    file = io.BytesIO()
    Image.fromarray(FRAME).save(file, form)
    batch = Batch(FRAME[None], [file.getvalue()])
    payload, _ = sent(Compression("jpeg", max_side=most), batch)
    assert (payload[0] == file.getvalue()) is is_kept


def test_files_and_arrays_of_a_batch_are_sent_as_files_together():
    batch = Batch(np.stack([FRAME, FRAME]), [b"a file", None])
    payload, _ = sent(Compression("jpeg"), batch, rows=np.arange(2))
    assert payload[0] == b"a file"
    assert decoded(payload[1])[0] == "JPEG"
    assert sent(Compression(), batch, rows=np.arange(2))[0].dtype == np.uint8


def test_a_picture_is_encoded_once_for_all_parts():
    packed = {}
    outgoing = Outgoing(Compression("jpeg"))
    first, _ = outgoing.payload(Batch(FRAME[None], None), ROWS, Files, packed)
    again, _ = outgoing.payload(Batch(FRAME[None], None), ROWS, Files, packed)
    assert first[0] is again[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"encode": "webp"}, "expected encode 'jpeg' or 'png', got 'webp'"),
        ({"encode": "jpeg", "quality": 0}, "a quality from 1 to 100, got 0"),
        ({"encode": "jpeg", "max_side": 0}, "max_side of at least 1 pixel, got 0"),
        ({"max_side": 9}, "expected encode with max_side, got none"),
        ({"max_message_mib": 0}, "max_message_mib of at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(bundle, options, says):
    with pytest.raises(SettingError, match=says):
        Cascade.open(bundle, **options)


def test_encode_is_refused_for_engines_that_decode_no_files(bundle):
    with pytest.raises(SettingError, match="expected a cloud that decodes files with encode"):
        Cascade.open(bundle, cloud="localhost:1", cloud_output="scores", encode="jpeg")


def test_encode_is_refused_for_texts():
    with pytest.raises(SettingError, match="takes pictures with encode, this one takes 'text'"):
        Compression("jpeg").require_usable(None, "text")


def cascade_to(engine, bundle, **options):
    return Cascade.open(bundle, cloud=engine.address, threshold=2.0, deadline_s=20, **options)


def test_a_message_above_the_limit_is_not_sent(bundle):
    huge = np.zeros((600, 1000, 3), np.uint8)  # 1.8 MB
    with Engine() as engine, cascade_to(engine, bundle, max_message_mib=1) as cascade:
        answer = cascade(huge)
        assert answer.source is Source.EDGE_FALLBACK
        assert "at most 1 MiB, 1 inputs have 1.7 MiB and were not sent: set encode" in answer.error
        assert cascade.request_bytes == 0
        small = huge[:300]
        assert {one.source for one in cascade.batch([small, small])} == {Source.CLOUD}  # in parts


def test_encoded_frames_fit_limit_and_budget_and_the_record_is_the_original(bundle, tmp_path):
    budget = DeferralBudget(max_bytes=100_000, window_s=60)
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    frame = np.kron(noise, np.ones((100, 100, 1), np.uint8))  # 1.9 MB, 40 KB as JPEG
    with (
        Engine() as engine,
        cascade_to(
            engine,
            bundle,
            encode="jpeg",
            max_message_mib=1,
            policy=Policy(budget=budget),
            record=Recorder(tmp_path / "record"),
        ) as cascade,
    ):
        assert cascade(frame).source is Source.CLOUD
        assert 1000 < cascade.request_bytes < 100_000
    [file] = (tmp_path / "record").rglob("*.png")
    with Image.open(file) as kept:
        np.testing.assert_array_equal(np.asarray(kept), frame)


@pytest.mark.slow
def test_a_server_answers_encoded_frames_as_raw_ones(bundle, address):
    noise = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    frames = [np.kron(noise, np.full((8, 8, 1), k, np.uint8)) for k in (1, 2, 3)]
    labels = []
    for options in ({}, {"encode": "png"}, {"encode": "jpeg", "quality": 95}):
        with Cascade.open(bundle, cloud=address, threshold=2.0, deadline_s=20, **options) as c:
            answers = c.batch(frames)
            assert {one.source for one in answers} == {Source.CLOUD}
            labels.append([one.label for one in answers])
    assert labels[0] == labels[1]
