"""Too little memory on the device is told apart from a bad input, and M_L answers instead."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tools.processes import ROOT, needs_proc

from edge_runtime import InputError
from edge_runtime.errors import lacks_memory
from edge_runtime.inputs.pictures import read_array

pytestmark = [needs_proc, pytest.mark.slow]

# The child gets only so much more memory than it has once the bundle and the inputs are open.
LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from PIL import Image
from edge_runtime import *
from edge_runtime.cloud.base import CloudAnswers
from edge_runtime.inputs.pictures import read_array

class Large:
    takes_files, deadline_s, model = False, 1.0, "large"
    def infer(self, payload, **_):
        if self.error:
            raise CloudUnavailableError("nothing answers")
        n = len(payload)
        return CloudAnswers(np.ones(n, np.int64), ["1"] * n, np.ones(n, np.float32), 0.0, 0)
    def close(self):
        pass

def limit(more_mib):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + (more_mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

def outcome(call):
    try:
        return call()
    except GatekeeperError as error:
        return f"{type(error).__name__}: {error}"
"""


def run_limited(body, *words):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + body, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def test_an_input_for_which_the_device_has_no_memory_goes_to_the_cloud(bundle):
    body = """
seen = []
cloud = Large()
edge = EdgeModel.open(sys.argv[1], threads=1)
both = Cascade(edge, cloud, on_answer=seen.append)
alone = Cascade(edge)
only = Cascade(edge, cloud, policy=Policy(mode="edge_only"))
rows = np.zeros((20_000, 8, 8, 3), np.uint8)
limit(40)
cloud.error = False
answers = both.batch(rows)
print({(a.source.value, a.label, a.deferred, a.error) for a in answers}, len(seen))
cloud.error = True
for cascade in (both, alone, only):
    print(outcome(lambda: cascade.batch(rows)))
print(len(seen), {a.source.value for a in both.batch(rows[:2])})
"""
    out, log = run_limited(body, bundle)
    assert out[0] == "{('cloud', '1', True, None)} 20000"
    needs = "ShortMemoryError: expected enough memory on this device for uint8 [20000, 8, 8, 3]"
    assert all(line.startswith(needs) for line in out[1:4])
    assert out[1].endswith("; CloudUnavailableError: nothing answers")
    assert out[4].startswith("20000 ")  # no callback with an answer that nobody gave
    assert "expected enough memory on this device" in log


def test_files_that_do_not_fit_into_memory_are_not_called_damaged(tmp_path):
    Image.new("RGB", (6000, 6000)).save(tmp_path / "large.png")
    np.save(tmp_path / "large.npy", np.zeros((6000, 6000, 3), np.uint8))
    body = """
Image.init()
limit(30)
for name in sys.argv[1:]:
    print(outcome(lambda: read_array(Path(name)).shape))
"""
    files = [tmp_path / "large.png", tmp_path / "large.npy"]
    out, _ = run_limited(body, *files)
    for file, line in zip(files, out, strict=True):
        assert line.startswith(f"ShortMemoryError: expected enough memory to read {file}")


def test_an_array_that_claims_more_than_its_file_holds_is_called_damaged(tmp_path):
    file = tmp_path / "lie.npy"
    with file.open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 50,)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(bytes(1000))
    with pytest.raises(InputError, match="expected a plain numeric array"):
        read_array(file)


SAID = [
    "CUDA out of memory. Tried to allocate 20.00 GiB.",
    "DefaultCPUAllocator: not enough memory: you tried to allocate 900 bytes.",
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 96",
    "Available memory of 1048576 is smaller than requested bytes of 2097152",
    "CUDA failure 2: out of memory ; GPU=0",
    "std::bad_alloc",
]


@pytest.mark.parametrize("text", SAID)
def test_what_libraries_say_of_a_lack_of_memory_is_known(text):
    assert lacks_memory(RuntimeError(text))
