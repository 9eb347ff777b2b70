"""Fitted models: an untrained one is right or wrong without a pattern."""

import pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Return (M_S, M_L): of one kind, M_L fitted on seven times as many digits."""
    from train.fit import FitSettings

    folder = tmp_path_factory.mktemp("models")
    for name, data in (("small", "digits"), ("large", "digits-more")):
        FitSettings(data=data, out=folder / name, epochs=12, patience=12, learning_rate=3e-3).run()
    return folder / "small", folder / "large"
