"""Language models of a few thousand weights, which one thread runs faster than several."""

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Let torch use one thread, here and in the processes that the tests start."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)
