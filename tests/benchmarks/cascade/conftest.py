"""The result folder of a tiny demo."""

from functools import partial

import pytest

from benchmarks.commands.cascade import DemoSettings
from train.classifier.fit import FitSettings
from train.classifier.tune import TuneSettings


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """Return the result folder of a demo on 40 digits, which trains for a moment only."""
    from benchmarks.cascade import demo

    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "FitSettings", partial(FitSettings, epochs=3))
        patch.setattr(demo, "TuneSettings", partial(TuneSettings, epochs=2))
        DemoSettings(out=out, seeds=(0,), limit=40).run()
    return out
