import pytest
from tools.adding_decoder import Adder, write_adder

from benchmarks.processes import running_server

SPOKEN = "aé€😀b"
"""An answer of twelve tokens: one per byte, and the end; every byte occurs once."""


@pytest.fixture(scope="session")
def address(large_checkpoint):
    """The address of a server of M_L that no test harms."""
    with running_server(["cloud_stub", "--checkpoint", str(large_checkpoint), "--port", "0"]) as it:
        yield it


@pytest.fixture(scope="session")
def spoken_bundle(tmp_path_factory):
    """A bundle that answers "?" with `SPOKEN`, with high confidence."""
    return write_adder(tmp_path_factory.mktemp("spoken"), Adder.saying(SPOKEN))
