"""Models as other people have them, and exports of them."""

import pytest
from tools.decisions import pixels_of
from tools.foreign_models import GOAL, Logits, write_onnx

from edge_runtime.errors import GatekeeperError
from train import data
from train.models import open_checkpoint


@pytest.fixture(scope="session")
def module(small_checkpoint):
    """The small checkpoint as other people have models: a tensor in, a tensor out."""
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
    """What the small checkpoint's processor makes of them, float32 [n, 3, 8, 8]."""
    return pixels_of(small_checkpoint, digits)


@pytest.fixture
def export(small_checkpoint, tmp_path):
    """Export somebody else's file with the small checkpoint's processor; return the bundle."""
    from export.commands.build import BuildSettings

    def run(path, **settings):
        kind = "program" if path.suffix == ".pt2" else "onnx"
        given = {kind: path, "processor": small_checkpoint, **GOAL, **settings}
        BuildSettings(out=tmp_path / "bundle", **given).run()
        return tmp_path / "bundle"

    return run


@pytest.fixture
def refused(export, tmp_path):
    """Expect one line that says something, and nothing written."""

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
