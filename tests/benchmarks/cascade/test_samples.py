"""Result files of a stranger end `check` with one line, whatever they unpack to."""

import gzip

import numpy as np
import pytest

from benchmarks.__main__ import COMMANDS
from benchmarks.cascade import samples
from edge_runtime import reading
from edge_runtime.cli import main


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("figures.json", b"[" * 100_000, "nested deeper than 64 levels"),
        ("figures.json", b"[]", "expected a JSON object in"),
        ("figures.json", b'{"figures": ' + b" " * (17 << 20) + b"[]}", "at most 16777216 bytes"),
    ],
)
def test_hostile_figures_are_refused(name, content, says, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert main("benchmarks", COMMANDS, argv=["check", str(tmp_path / name)]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"variant,seed,id\n" + b"a,1,x\n" * 1000, "unpacks to more than 4096 bytes"),
        (b"variant,seed,id\n" + b"a,1\n", "expected the per-sample file"),
        (b'variant,seed,id\n"a\0,1', "expected the per-sample file"),
        (b"variant,seed,id\n" + b"a" * 4000, "expected the per-sample file"),
    ],
)
def test_samples_that_unpack_to_too_much_or_lack_cells_are_refused(
    content, says, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(samples, "_MOST_BYTES", 4096)
    (tmp_path / "samples.csv.gz").write_bytes(gzip.compress(content))
    (tmp_path / "results.json").write_text('{"findings": []}')
    assert main("benchmarks", COMMANDS, argv=["check", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_archives_of_arrays_that_unpack_to_too_much_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reading.open_arrays.__wrapped__, "__kwdefaults__", {"limit": 1 << 16})
    np.savez_compressed(tmp_path / "sweep-samples.npz", ids=np.zeros(1 << 16))
    (tmp_path / "sweep-results.json").write_text("""{"deferral": {}}""")
    assert main("benchmarks", COMMANDS, argv=["check", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "it unpacks to" in error
    assert error.count("\n") == 1
