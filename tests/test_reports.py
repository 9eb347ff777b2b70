"""Nothing leaves the device unasked: no file in the home folder, and no host but loopback."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.reports import OFF

ROOT = Path(__file__).parent.parent
PACKAGES = ("edge_runtime", "train", "export", "cloud_stub", "benchmarks")
PRINT = "import json, os; print(json.dumps(dict(os.environ)))"
ADDRESS = re.compile(r"sin6?_port=htons\((\d+)\).*?(?:inet_addr\(|AF_INET6, )\"([^\"]+)\"")
OWN_CACHE = re.compile(r"\.(cache|config)/matplotlib(/|$)")
"""Its list of fonts; nothing of it leaves the device."""
TRACE = ("strace", "--seccomp-bpf", "-D", "-f", "-qq", "-e", "trace=connect,sendto,sendmmsg")


def home(tmp_path):
    """Return the environment of a user with an empty home folder, and that folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    return {**kept, "HOME": str(folder), "TMPDIR": str(tmp_path)}, folder


def variables(statement, env):
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}; {PRINT}"],
        capture_output=True, text=True, check=True, cwd=ROOT, env=env,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize("package", PACKAGES)
def test_an_import_of_a_package_switches_reports_off(package, tmp_path):
    env, _ = home(tmp_path)
    found = variables(f"import {package}", env)
    assert {name: found.get(name) for name in OFF} == OFF


def test_a_user_who_set_a_variable_is_obeyed(tmp_path):
    mine = dict.fromkeys(OFF, "mine")
    found = variables("import edge_runtime", home(tmp_path)[0] | mine)
    assert {name: found[name] for name in OFF} == mine


def far_places(trace):
    """Return the name servers asked and the hosts connected to, as (address, port)."""
    found = [ADDRESS.search(line) for line in trace.read_text(encoding="utf-8").splitlines()]
    places = {(each[2], int(each[1])) for each in found if each}
    return {
        (address, port)
        for address, port in places
        if port == 53 or not address.startswith(("127.", "0.", "::"))
    }


def can_trace():
    tool = shutil.which(TRACE[0])
    return tool and not subprocess.run([tool, "true"], capture_output=True, check=False).returncode


def words_of(command, bundle, checkpoint, tmp_path):
    picture = tmp_path / "one.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
    return {
        "edge_runtime run": ["--bundle", bundle, picture],
        "edge_runtime doctor": ["--bundle", bundle],
        "export build": ["--checkpoint", checkpoint, "--out", tmp_path / "out", "--threshold=0.5"],
        "train fit": ["--data=digits", "--epochs=1", "--limit=50", "--out", tmp_path / "out"],
        "cloud_stub serve": ["--bundle", bundle, "--port=0"],
    }[command]


COMMANDS = (
    "edge_runtime run", "edge_runtime doctor", "export build", "train fit", "cloud_stub serve",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_leaves_nothing_at_home_and_asks_no_host(
    command, bundle, small_checkpoint, tmp_path
):
    env, folder = home(tmp_path)
    package, name = command.split()
    words = [str(word) for word in words_of(command, bundle, small_checkpoint, tmp_path)]
    line = [sys.executable, "-m", package, name, *words]
    trace = tmp_path / "trace"
    if can_trace():
        line = [*TRACE, "-o", str(trace), *line]
    process = subprocess.Popen(
        line, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        if name == "serve":
            assert process.stdout.readline().startswith("cloud_stub: serving")
            process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 0, out + error
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {path for path in left if not OWN_CACHE.match(path)} == set()
    if trace.exists():
        assert far_places(trace) == set()
