"""Models as other tools write them, and exports of them."""

import pytest
import torch
from tools.decisions import pixels_of
from tools.foreign_models import GOAL, Logits, write_onnx
from tools.traces import Traces

from edge_runtime.errors import GatekeeperError
from train import data
from train.models import open_checkpoint

_THREADS = pytest.StashKey[int]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Give PyTorch one thread: in tiny models two of them mostly wait for each other."""
    item.stash[_THREADS] = torch.get_num_threads()
    torch.set_num_threads(1)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    """Give PyTorch its threads back."""
    try:
        return (yield)
    finally:
        torch.set_num_threads(item.stash[_THREADS])


@pytest.fixture(scope="session", autouse=True)
def traces(tmp_path_factory):
    """Trace each model once."""
    kept = Traces(tmp_path_factory.mktemp("traces"))
    with kept.patched():
        yield kept


@pytest.fixture
def fresh_traces(traces):
    """Trace every model anew, for tests of the traces themselves."""
    traces.reused = False
    yield
    traces.reused = True


@pytest.fixture(scope="session")
def module(small_checkpoint):
    """The small checkpoint as other tools have models: a tensor in, a tensor out."""
    return Logits(open_checkpoint(small_checkpoint))


@pytest.fixture(scope="session")
def model(module, tmp_path_factory):
    """Its ONNX file, of opset 17, float32; nobody changes it."""
    return write_onnx(module, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.fixture(scope="session")
def digits():
    """Test digits, uint8 [n, 8, 8, 3]."""
    return data.load("digits").test.array()


@pytest.fixture(scope="session")
def pixels(small_checkpoint, digits):
    """The digits behind the small checkpoint's processor, float32 [n, 3, 8, 8]."""
    return pixels_of(small_checkpoint, digits)


@pytest.fixture
def export(small_checkpoint, tmp_path):
    """Return a function that exports a foreign file with the small checkpoint's processor."""
    from export.commands.build import BuildSettings

    def run(path, **settings):
        kind = "program" if path.suffix == ".pt2" else "onnx"
        source = {kind: path, "processor": small_checkpoint, **GOAL, **settings}
        BuildSettings(out=tmp_path / "bundle", **source).run()
        return tmp_path / "bundle"

    return run


@pytest.fixture
def refused(export, tmp_path):
    """Return a function that expects an error of one line with a text, and nothing written."""

    def run(path, says, **settings):
        with pytest.raises(GatekeeperError, match=says) as error:
            export(path, **settings)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "bundle").exists()

    return run


@pytest.fixture
def without_data(tmp_path):
    """Settings of an export without data and without a processor."""
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("0123456789"))
    no_data = dict.fromkeys(("processor", *GOAL))
    return {**no_data, "labels": labels, "threshold": 0.1}
