"""Runs the product's commands as a user does, and breaks what is around them."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_runtime.cli import main

ROOT = Path(__file__).parent.parent.parent
needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux' /proc")


def heed_ctrl_c():
    # A shell without job control starts what runs in the background deaf to it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(module, *words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - no threads run in the tests' own process
        **options,
    )


def finish(module, *words):
    """Return (status, standard error, standard output)."""
    process = start(module, *words)
    try:
        out, error = process.communicate(timeout=120)
    finally:
        process.kill()  # one that takes too long must not slow the tests after it
        process.wait()
    return process.returncode, error, out


def refused(module, words, *, status=1, says):
    """Expect one line on standard error with the given texts, and the status."""
    code, error, _ = finish(module, *words)
    assert (code, error.count("\n")) == (status, 1), error
    assert error.startswith(f"python -m {module}: ")
    for text in [says] if isinstance(says, str) else says:
        assert text in error


def refused_here(module, commands, words, capfd, *, says, status=1, default=None):
    """Expect the same of the same line without the seconds that a new process takes."""
    capfd.readouterr()
    argv = [str(word) for word in words]
    code = main(f"python -m {module}", commands, default=default, argv=argv)
    error = capfd.readouterr().err
    assert (code, error.count("\n")) == (status, 1), error
    assert error.startswith(f"python -m {module}: ")
    for text in [says] if isinstance(says, str) else says:
        assert text in error


def contents(folder):
    """Return name -> bytes of everything under a folder, hidden files included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextlib.contextmanager
def mounted(path, options):
    """Give a small file system of its own, where this user may mount one."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs the right to mount a small file system")
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def make_read_only(disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


def wait_for(condition, process):
    """Wait until the process is in the middle of something; fail where it ended first."""
    until = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.0005)


def has_loaded(process, library):
    found = library in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
    if not found:  # imports take seconds, of the processor that looking again at once would use
        time.sleep(0.02)
    return found


def has_loaded_torch(process):
    # transformers loads this once the import of torch is over: a Ctrl-C that strikes inside of
    # torch's own start-up ends the process from C++.
    return has_loaded(process, "tokenizers")
