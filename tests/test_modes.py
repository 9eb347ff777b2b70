"""What commands write can be read by a server under another user, if the umask allows it."""

import os

import pytest
from tools.things import new_language_model, write_task

from cloud_stub.deploy.settings import DeploySettings
from export.commands.build import BuildSettings
from export.commands.language import LanguageSettings
from export.commands.retune import RetuneSettings
from train.classifier.settings import DeferralHeadSettings, FitSettings

pytestmark = [pytest.mark.slow, pytest.mark.once]


@pytest.fixture
def open_umask():
    """Let others read what is written."""
    usual = os.umask(0o022)
    yield
    os.umask(usual)


def write_classifiers(folder, large):
    FitSettings(data="digits", out=folder / "fit", epochs=1, limit=100).run()
    DeferralHeadSettings(checkpoint=folder / "fit", large=large, data="digits").run()
    BuildSettings(checkpoint=folder / "fit", out=folder / "bundle", threshold=0.4).run()
    RetuneSettings(bundle=folder / "bundle", threshold=0.5).run()
    DeploySettings(bundle=folder / "bundle", target="triton", out=folder / "repository").run()


def write_language_models(folder, _):
    start = new_language_model(write_task(folder / "task"), folder / "new", "llama")
    LanguageSettings(checkpoint=start, threshold=-0.5, out=folder / "bundle").run()


@pytest.mark.parametrize("write", [write_classifiers, write_language_models])
def test_others_can_read_what_commands_write(write, open_umask, large_checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", large_checkpoint)
    places = list((tmp_path / "out").rglob("*"))
    assert {"model.onnx", "config.json"} < {place.name for place in places}
    hidden = [p for p in places if p.stat().st_mode & 0o044 != 0o044]
    assert not hidden
    assert all(p.stat().st_mode & 0o011 == 0o011 for p in places if p.is_dir())
