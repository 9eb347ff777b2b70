"""One server of a graph that follows orders, under many names with limits of their own."""

import pytest
from tools.callers import Caller, callers

ONE = "max_batch = 1"
MODELS = {
    "flooded": "max_batch = 8\nmax_queue = 300",
    "short-queue": "max_queue = 4",
    "one-by-one": f"max_queue = 1\n{ONE}",
    "impatient-callers": "",
    "leaving-callers": "max_queue = 2",
    "broken-connection": "max_queue = 5",
    "delayed": "max_delay_ms = 1000",
    "delayed-when-not-full": "max_delay_ms = 50000\nmax_batch = 2",
    "small-batches": "max_batch = 4",
    "fails-0": "max_batch = 16",
    "fails-1": "max_batch = 16",
    "fails-2": "max_batch = 16",
    "fails-first": "max_batch = 16",
    "outlived": "",
    "recovers": f"stall = 0.2\n{ONE}",
}
"""Name -> settings. Each name is used by one test, so that its statistics are that test's own."""


@pytest.fixture(scope="session")
def orders(moody, start, tmp_path_factory):
    """One server for all tests; none of them may harm it."""
    file = tmp_path_factory.mktemp("orders") / "models.toml"
    file.write_text(
        "".join(
            f'[[model]]\nmodel = "{name}"\nonnx = "{moody.path}"\n'
            f"allow_loops = true\nthreads = 1\n{settings}\n"
            for name, settings in MODELS.items()
        )
    )
    running = start("--models", str(file), "--port", "0")
    yield running
    assert running.stop() == 0
    assert "Traceback" not in "".join(running.errors)


@pytest.fixture
def caller_of(orders):
    """Return a function that opens a client of a model."""
    return lambda model, *options: Caller(orders.address, *options, model=model)


@pytest.fixture
def callers_of(orders):
    """Return a function that opens several clients of a model."""
    return lambda model, count: callers(orders.address, count, model=model)
