"""Ctrl-C in the middle of a command that only reads: one line, status 130, nothing left behind."""

import signal
import socket
import time

import pytest
from tools.processes import contents, has_loaded, needs_proc, start, wait_for

pytestmark = [pytest.mark.slow, needs_proc]

LINES = {
    "train evaluate": "--checkpoint {small} --data digits-more --split all --out {out}/e.json",
    "export verify": "--bundle {bundle} --data digits --against {small}",
    "edge_runtime doctor": "--bundle {bundle} --cloud {silent} --deadline-s 60",
    "benchmarks latency": "--bundle {bundle} --calls 100000000 --out {out}/l.json",
    "benchmarks runtime": "--out {out}/r.json",
    "benchmarks check": "",
}
# What is in memory once the work goes on: before that, the interpreter is still importing.
WORKS = {
    "train": "tokenizers",
    "export": "tokenizers",
    "edge_runtime": "onnxruntime",
    "benchmarks": "onnxruntime",
    "benchmarks check": "pocketfft",
}


@pytest.fixture
def silent():
    """An address where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def interrupted(command, places):
    """Press Ctrl-C in the middle of a command; return (status, standard error)."""
    module = command.split()[0]
    words = LINES[command].format(**places).split()
    process = start(module, *command.split()[1:], *words)
    wait_for(lambda: has_loaded(process, WORKS.get(command, WORKS[module])), process)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    return process.returncode, error


@pytest.mark.parametrize("command", LINES)
def test_ctrl_c_is_one_line_and_leaves_nothing(command, bundle, small_checkpoint, silent, tmp_path):
    before = contents(bundle), contents(small_checkpoint)
    places = {"small": small_checkpoint, "bundle": bundle, "silent": silent}
    # Some C code of the libraries drops whatever exception strikes while it runs, a Ctrl-C with it:
    # a rare one is lost to any Python program, and who pressed it presses again.
    for attempt in ("first", "second", "third"):
        out = tmp_path / attempt
        out.mkdir()
        status, error = interrupted(command, {**places, "out": out})
        if status:
            break
    module = command.split()[0]
    assert (status, error) == (130, f"python -m {module}: interrupted\n")
    assert not list(out.iterdir())
    assert (contents(bundle), contents(small_checkpoint)) == before
