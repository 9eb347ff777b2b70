import importlib.util
import os

import pytest
from tools.adding_decoder import Adder, write_adder

from benchmarks.processes import running_server

HAS_TORCH = importlib.util.find_spec("torch") is not None
NEEDS_TORCH = ["inputs/test_texts.py", "inputs/test_values.py", "cloud/test_mlserver.py"]
HAS_OPENCV = importlib.util.find_spec("cv2") is not None
collect_ignore = [
    *([] if HAS_TORCH else NEEDS_TORCH),
    *([] if HAS_OPENCV else ["commands/test_sources.py"]),
]
SPOKEN = "aé€😀b"
"""An answer of twelve tokens: one per byte, and the end; every byte occurs once."""


@pytest.fixture(scope="session")
def address(request):
    """The address of a server of M_L that no test harms."""
    if not HAS_TORCH and "GATEKEEPER_MADE" in os.environ:
        model = ["--bundle", os.environ["GATEKEEPER_MADE"] + "/large"]
    else:
        model = ["--checkpoint", str(request.getfixturevalue("large_checkpoint"))]
    with running_server(["cloud_stub", *model, "--port", "0"]) as it:
        yield it


@pytest.fixture(scope="session")
def spoken_bundle(tmp_path_factory):
    """A bundle that answers "?" with `SPOKEN`, with high confidence."""
    return write_adder(tmp_path_factory.mktemp("spoken"), Adder.saying(SPOKEN))
