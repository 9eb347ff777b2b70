"""Decoding of picture files, the requests taking turns."""

from __future__ import annotations

import asyncio
import io
import threading
from math import inf

import pytest
from PIL import Image
from tools.batching import PATIENCE_S, run
from tools.callers import picture

from cloud_stub.errors import BadRequestError, OverloadError, RefusedRowsError
from cloud_stub.protocol import pictures
from cloud_stub.protocol.pictures import PictureDecoder
from edge_runtime.inputs.pictures import decode_picture

pytestmark = pytest.mark.once


@pytest.fixture
def decoder():
    made = PictureDecoder(4)
    yield made
    made.close()


def decode(decoder, files, *, hold=lambda _: None, max_pixels=1 << 25):
    return decoder.decode(files, client="a", deadline=inf, max_pixels=max_pixels, hold=hold)


def test_decoded_memory_is_held_before_anything_is_decoded(decoder, monkeypatch):
    def refuse(size):
        held.append(size)
        raise OverloadError("no room")

    async def scenario():
        with pytest.raises(OverloadError, match="no room"):
            await decode(decoder, [picture(0, 1000), picture(0, 10)], hold=refuse)

    held = []
    monkeypatch.setattr(pictures.pictures, "decode_picture", None)
    run(scenario)
    assert held == [3 * (1_000_000 + 100)]


def test_a_picture_over_the_limit_is_named_and_so_are_damaged_ones(decoder):
    async def scenario():
        with pytest.raises(
            RefusedRowsError, match="at most 99 pixels, picture 1 has 10 x 10"
        ) as no:
            await decode(decoder, [picture(0, 9), picture(0, 10)], max_pixels=99)
        assert list(no.value.reasons) == [1]
        with pytest.raises(RefusedRowsError, match="picture 2 cannot be decoded") as no:
            await decode(decoder, [picture(0, 9), picture(0, 9), b"x"])
        assert list(no.value.reasons) == [2]

    run(scenario)


def test_a_picture_far_longer_than_wide_is_refused_and_named(decoder):
    async def scenario():
        file = io.BytesIO()
        Image.new("L", (1, 65)).save(file, "PNG")
        with pytest.raises(RefusedRowsError, match="at most 1 to 64, got 65 x 1") as no:
            await decode(decoder, [picture(0, 9), file.getvalue()])
        assert list(no.value.reasons) == [1]

    run(scenario)


def test_pictures_of_a_request_are_bounded_together(decoder, monkeypatch):
    async def scenario():
        with pytest.raises(BadRequestError, match="at most 150 pixels together, got 200"):
            await decode(decoder, [picture(0, 10)] * 2, max_pixels=100)

    monkeypatch.setattr(pictures, "MAX_REQUEST_PIXELS", 150)
    run(scenario)


def test_small_pictures_do_not_wait_for_a_large_one(decoder, monkeypatch):
    is_begun, may_end = threading.Event(), threading.Event()

    def decode_slowly(file, name, *, max_pixels):
        if file == large:
            is_begun.set()
            assert may_end.wait(PATIENCE_S)
        return decode_picture(file, name, max_pixels=max_pixels)

    async def scenario():
        first = asyncio.create_task(decode(decoder, [large]))
        await asyncio.to_thread(is_begun.wait, PATIENCE_S)
        assert len(await decode(decoder, [picture(0, 9)] * 100)) == 100
        assert not first.done()
        may_end.set()
        assert (await first)[0].shape == (1200, 1200, 3)

    large = picture(0, 1200)
    monkeypatch.setattr(pictures.pictures, "decode_picture", decode_slowly)
    run(scenario)


def test_a_request_of_many_pictures_is_decoded_in_pieces_and_in_order(decoder, monkeypatch):
    pieces = []
    original = pictures._some

    def counted(step, encoded, start):
        pieces.append(start)
        return original(step, encoded, start)

    async def scenario():
        decoded = await decode(decoder, [picture(n, 3) for n in range(100)])
        assert [image[0, 0, 0] for image in decoded] == list(range(100))

    monkeypatch.setattr(pictures, "_some", counted)
    monkeypatch.setattr(pictures, "_PIECE_S", 0.0)
    run(scenario)
    assert pieces == [*range(100), *range(100)]
