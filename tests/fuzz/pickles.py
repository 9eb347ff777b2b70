"""Fuzzes the reader of CIFAR's batches: python tests/fuzz/pickles.py -runs=500000.

Needs atheris, which is no dependency; run it from the repository's root with both on the path.
"""

import contextlib
import pickle
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["train.data.layouts.plain_pickle"]):
    from train.data.layouts.plain_pickle import PlainPickleError, parse
from train.errors import DataError


def read(content: bytes) -> None:
    with contextlib.suppress(PlainPickleError, DataError):
        for value in parse(content).values():
            if isinstance(value, np.ndarray):
                value.sum()  # reads all of its memory


def main() -> None:
    with tempfile.TemporaryDirectory() as corpus:
        batch = {b"labels": [0, 1], "data": np.zeros((2, 6), np.uint8), b"n": [b"a", "b", -5]}
        for protocol in (2, 3, 4):
            Path(corpus, f"{protocol}").write_bytes(pickle.dumps(batch, protocol))
        atheris.Setup([*sys.argv, corpus], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
