"""The wheel holds the five packages, and a device that installs it with [cpu] can ask the cloud."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from benchmarks.processes import running_server

ROOT = Path(__file__).parent.parent
PACKAGES = {"train", "export", "edge_runtime", "cloud_stub", "benchmarks"}
DEVICE = """
import sys
import numpy as np
from edge_runtime import Cascade
with Cascade.open(sys.argv[1], cloud=sys.argv[2], threshold=2.0, deadline_s=20) as cascade:
    answer = cascade(np.zeros((8, 8, 3), np.uint8))
print(answer.source)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    line = [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_packages_typed_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == PACKAGES
    assert all(f"{package}/py.typed" in names for package in PACKAGES)
    assert "edge_runtime/wire/descriptor.binpb" in names
    assert not [n for n in names if n.startswith("tests/") or "__pycache__" in n or "results/" in n]


@pytest.mark.slow
def test_a_device_with_the_cpu_extra_asks_a_running_server(
    wheel, bundle, large_checkpoint, tmp_path
):
    venv.create(tmp_path / "device", with_pip=True)
    python = tmp_path / "device" / "bin" / "python"
    pins = ROOT / "constraints.txt"
    install = [python, "-m", "pip", "install", "-q", "-c", pins, f"{wheel}[cpu]"]
    subprocess.run(install, check=True)
    serve = ["cloud_stub", "--checkpoint", str(large_checkpoint), "--port", "0"]
    with running_server(serve) as address:
        done = subprocess.run(
            [python, "-c", DEVICE, bundle, address],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
    assert (done.returncode, done.stdout) == (0, "cloud\n"), done.stderr
    listed = subprocess.run(
        [python, "-m", "pip", "list"], capture_output=True, text=True, check=True
    )
    assert "torch" not in listed.stdout
