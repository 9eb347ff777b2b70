"""Servers run as real processes, and the system counts a process's memory and processor time."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.errors import BenchmarkError, ServerStartError
from benchmarks.processes import (
    Server,
    last_line,
    output_lines,
    peak_resident_bytes,
    processor_s,
    resident_bytes,
    running_server,
)

ECHO = "benchmarks.runtime.echo_server"


@pytest.mark.slow
def test_a_killed_server_comes_back_at_its_address_and_stops_although_halted():
    with Server([ECHO]) as server:
        address = server.address
        server.kill()
        assert server.pid is None
        server.start()
        assert server.address == address
        server.send(signal.SIGSTOP)
        server.stop()
        assert server.pid is None
        assert server.stop() == ""


@pytest.mark.slow
def test_a_server_that_does_not_start_gives_its_reason():
    with (
        pytest.raises(ServerStartError, match=r"tests\.tools\.nobody did not start: .*nobody"),
        running_server(["tests.tools.nobody"]),
    ):
        pytest.fail("it started")


@pytest.mark.slow
def test_a_module_that_fails_is_an_error_in_one_line():
    with pytest.raises(BenchmarkError, match=r"python -m tests.tools.nobody failed: .*nobody"):
        output_lines("tests.tools.nobody", 1)


def test_the_last_line_of_a_process_is_its_reason():
    assert last_line("Traceback\n  line 1\nKeyError: 'x'\n\n") == "KeyError: 'x'"
    assert last_line(" \n") == "no message"


def test_a_process_holds_more_than_what_it_has_just_filled():
    before = resident_bytes()
    if before is None:
        pytest.skip("needs Linux' /proc")
    filled = np.ones(16_000_000)  # too large to come from memory that the process already holds
    assert resident_bytes() - before > 0.9 * filled.nbytes
    full = resident_bytes()
    del filled
    assert peak_resident_bytes() > full - 1e6 > resident_bytes()


def test_the_memory_of_a_process_that_is_gone_is_unknown():
    assert resident_bytes(2**22 + 1) is None


def test_the_processor_time_of_a_child_counts():
    before = processor_s(os.getpid())
    if before is None:
        pytest.skip("needs Linux' /proc")
    code = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        assert processor_s(os.getpid()) - before > 0.15
        assert processor_s(child.pid) > 0.15
        child.stdin.write(b"\n")
    assert processor_s(child.pid) is None
