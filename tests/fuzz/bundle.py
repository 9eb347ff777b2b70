"""Fuzzes the readers of a bundle: `bundle.json`, and the scan of its graph.

`pip install atheris`, then `python tests/fuzz/bundle.py -max_total_time=600 CORPUS`. An input is
the record, a byte 0xFF, and the graph. Any error but a refusal is a find, and so are five seconds.
"""

import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports():
    from edge_runtime import bundle, onnx_file
    from edge_runtime.errors import GatekeeperError

_SLOW_S = 5.0
_FOLDER = Path(tempfile.mkdtemp())


def one_input(data: bytes) -> None:
    """Open one bundle; its record lists the graph with the right hash wherever it can."""
    start = time.perf_counter()
    record, _, graph = data.partition(b"\xff")
    (_FOLDER / "model.onnx").write_bytes(graph)
    try:
        content = json.loads(record)
        content["files"] = {"model.onnx": hashlib.sha256(graph).hexdigest()}
        record = json.dumps(content).encode()
    except (ValueError, TypeError, RecursionError):
        pass
    (_FOLDER / "bundle.json").write_bytes(record)
    for read in (
        lambda: bundle.read_bundle(_FOLDER),
        lambda: onnx_file.scan_onnx(graph, _FOLDER / "model.onnx"),
    ):
        try:
            read()
        except GatekeeperError as error:
            if "\n" in str(error):
                raise AssertionError from error
    assert time.perf_counter() - start < _SLOW_S


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
