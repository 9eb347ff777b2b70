"""Pickles of CIFAR's batches: what opens, and what would reach memory or code."""

import contextlib
import pickle
import random

import numpy as np
import pytest

from train.data.layouts.plain_pickle import PlainPickleError, parse
from train.errors import DataError


class Call:
    """Calls numpy when it is unpickled."""

    def __init__(self, function, *given):
        self.call = function, given

    def __reduce__(self):
        return self.call


class Typed:
    """Becomes a type of numbers with a state of its own when it is unpickled."""

    def __init__(self, code, flags):
        self.made = np.dtype, (code, False, True), (3, "|", None, None, None, -1, -1, flags)

    def __reduce__(self):
        return self.made


class Made:
    """Becomes an array of a type, a shape and bytes when it is unpickled."""

    def __init__(self, shape, kind, content):
        empty = np.zeros(1).__reduce__()
        self.made = empty[0], empty[1], (1, shape, kind, False, content)

    def __reduce__(self):
        return self.made


ADDRESSES = {
    "over another's memory": Call(np.ndarray, (1, 3072), np.dtype("u1"), b"x" * 3072, -64),
    "of addresses": Made((1,), Typed("O8", 0), b"\x10" * 8),
    "of records": Made((1,), Typed("V3072", 0), b"x" * 3072),
    "of another size": Made((2, 3072), np.dtype("u1"), b"x" * 3072),
    "of no size": Made((-1, -3072), np.dtype("u1"), b"x" * 3072),
    "of a number": Made(3072, np.dtype("u1"), b"x" * 3072),
}


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("array", ADDRESSES)
def test_an_array_that_reaches_other_memory_is_refused(array, protocol):
    content = pickle.dumps({b"data": ADDRESSES[array]}, protocol=protocol)
    with pytest.raises(PlainPickleError):
        parse(content)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_python_3_writes_opens(protocol):
    arrays = {
        "rows": np.arange(12, dtype=np.uint8).reshape(2, 6),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "other order": np.array([1, 256], ">i4"),
    }
    found = parse(pickle.dumps({**arrays, b"names": ["caf\u00e9", b"\xff"], "n": -5}, protocol))
    assert (found["names"], found["n"]) == (["caf\u00e9", b"\xff"], -5)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_batch_written_by_python_2_opens():
    pixels = np.arange(8 * 3072, dtype=np.uint32).astype(np.uint8)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08"
        b"(K\x01K\x08M\x00\x0c\x86cnumpy\ndtype\nq\tU\x02u1K\x00K\x01\x87Rq\n(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x60\x00\x00" + pixels.tobytes() + b"tb"
    )
    labels = b"U\x06labelsq\x04]q\x05(" + b"K\x00K\x01" * 4 + b"e"
    names = b"U\x09filenamesq\x0b]q\x0c(U\x05a.pngq\x0dU\x05b.pngq\x0ee"
    head = b"U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03"
    content = b"\x80\x02}q\x01(" + head + labels + b"U\x04data" + array + names + b"u."
    loaded = pickle.loads(content, encoding="bytes")  # noqa: S301 - written above
    assert loaded[b"batch_label"] == b"training batch 1 of 5"
    found = parse(content)
    np.testing.assert_array_equal(found["data"], pixels.reshape(8, 3072))
    assert found["labels"] == [0, 1] * 4
    assert found["filenames"] == [b"a.png", b"b.png"]


def test_texts_that_grow_while_they_are_read_are_refused():
    text = b"X\xff\xff\x00\x00" + b"a" * 65535 + b"q\x00"
    call = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    content = b"\x80\x02}" + text + call * 40
    with pytest.raises(PlainPickleError, match="longer than the file"):
        parse(content + b".")


def test_a_changed_pickle_opens_or_is_refused():
    """The reader raises nothing but its own errors, whatever the bytes are."""
    rng = random.Random(0)
    batch = {b"labels": [0, 1], "data": np.zeros((2, 6), np.uint8), b"n": [b"a", "b"]}
    whole = [pickle.dumps(batch, protocol=protocol) for protocol in (2, 3, 4)]
    for _ in range(20_000):
        content = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        with contextlib.suppress(DataError, PlainPickleError):
            parse(bytes(content))
