"""Idx files as MNIST is published, and the damage they may have."""

import gzip
import struct

import numpy as np
import pytest

from train import data
from train.errors import DataError

pytestmark = pytest.mark.once
DRAWS = np.random.default_rng(7)


def idx_file(path, array, *, rank=None):
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, rank or array.ndim, *array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def mnist(folder, ending=""):
    folder.mkdir(exist_ok=True)
    for prefix, n in (("train", 40), ("t10k", 4)):
        pixels = DRAWS.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        idx_file(folder / f"{prefix}-images-idx3-ubyte{ending}", pixels)
        idx_file(folder / f"{prefix}-labels-idx1-ubyte{ending}", np.arange(n, dtype=np.uint8) % 2)
    return pixels


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_become_rgb(tmp_path, ending):
    test = mnist(tmp_path, ending)
    splits = data.load(str(tmp_path))
    assert (len(splits.train), len(splits.test)) == (36, 4)
    assert splits.test.inputs[2].shape == (28, 28, 3)
    assert np.array_equal(splits.test.inputs[2], np.stack([test[2]] * 3, axis=-1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "download it again"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "download it again"),
        (lambda path: path.write_bytes(b"\0\0"), "expected an idx file"),
        (lambda path: idx_file(path, np.zeros((40, 28), np.uint8)), "rank 3"),
        (lambda path: path.unlink(), "expected train-images-idx3-ubyte"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, damage, message):
    mnist(tmp_path)
    damage(tmp_path / "train-images-idx3-ubyte")
    with pytest.raises(DataError, match=message):
        data.load(str(tmp_path))


def test_a_truncated_gzip_is_named(tmp_path):
    mnist(tmp_path, ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="unreadable"):
        data.load(str(tmp_path))


@pytest.mark.parametrize(
    "shape", [(2**20, 100, 100), (2**32 - 1, 0, 0), (2**23, 1, 1), (2**32 - 1, 2**32 - 1, 1)]
)
def test_an_idx_file_that_unpacks_to_more_than_memory_is_refused(tmp_path, shape):
    mnist(tmp_path, ".gz")
    content = gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, *shape) + bytes(10**6))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match="once it is unpacked"):
        data.load(str(tmp_path))


def test_an_idx_file_is_unpacked_no_further_than_its_header_says(tmp_path):
    mnist(tmp_path, ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with gzip.open(path, "ab") as file:
        for _ in range(50):
            file.write(bytes(2**20))
    # The end of the file is damaged: a reader that goes on to it would say so.
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"expected 31360 bytes .* got more: download it again"):
        data.load(str(tmp_path))


def test_more_pictures_than_labels_are_refused(tmp_path):
    mnist(tmp_path)
    idx_file(tmp_path / "train-labels-idx1-ubyte", np.zeros(39, np.uint8))
    with pytest.raises(DataError, match="as many labels as pictures"):
        data.load(str(tmp_path))
