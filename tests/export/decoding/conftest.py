"""A task, a language model that half knows it, and exports of that model; nobody changes them."""

import shutil

import pytest
from tools.things import new_language_model, write_task

from export.commands.language import LanguageSettings
from train.language.fit import FitLanguageSettings


@pytest.fixture(scope="session")
def things(tmp_path_factory):
    return str(write_task(tmp_path_factory.mktemp("tasks") / "things"))


@pytest.fixture(scope="session")
def half_taught(things, tmp_path_factory):
    """Return a checkpoint that is right about as often as not."""
    root = tmp_path_factory.mktemp("language")
    start = new_language_model(things, root / "new", "llama")
    FitLanguageSettings(
        checkpoint=start,
        task=things,
        out=root / "half",
        epochs=8,
        batch_size=8,
        learning_rate=0.02,
    ).run()
    return root / "half"


@pytest.fixture(scope="session")
def exported(half_taught, things, tmp_path_factory):
    """Return a function that exports the checkpoint with a quantization, once each."""
    root, made = tmp_path_factory.mktemp("bundles"), {}

    def export(quantize):
        if quantize not in made:
            made[quantize] = root / quantize
            LanguageSettings(
                checkpoint=half_taught,
                calibrate=things,
                target_deferral=0.25,
                quantize=quantize,
                max_flips=0.25,
                out=made[quantize],
            ).run()
        return made[quantize]

    return export


@pytest.fixture(scope="session")
def lm_bundle(exported):
    return exported("none")


@pytest.fixture
def copy(exported, tmp_path):
    """Return a function that copies an export, to be changed."""
    return lambda quantize="none": shutil.copytree(exported(quantize), tmp_path / "copy")
