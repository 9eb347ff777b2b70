"""A server that the tests of this folder share."""

import pytest

from benchmarks.processes import running_server


@pytest.fixture(scope="session")
def address(large_checkpoint):
    """Return HOST:PORT of a server of the untrained large model."""
    with running_server(["cloud_stub", "--checkpoint", str(large_checkpoint), "--port", "0"]) as it:
        yield it
