"""A task, a language model that half knows it, and exports of that model, none of them changed."""

import json
import shutil

import pytest
from tools.things import new_language_model, write_task

from export.commands.language import LanguageSettings
from train.language.settings import FitLanguageSettings
from train.models import open_language_model, save_language_model


@pytest.fixture(scope="session")
def things(tmp_path_factory):
    return str(write_task(tmp_path_factory.mktemp("tasks") / "things"))


@pytest.fixture(scope="session")
def half_taught(things, tmp_path_factory):
    """Return a checkpoint that is right about half of the time.

    It has four tokens more than its tokenizer, like models whose vocabulary is rounded up.
    """
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
    model = open_language_model(root / "half")
    model.model.resize_token_embeddings(304)
    training = json.loads((root / "half" / "training.json").read_text(encoding="utf-8"))
    save_language_model(model, root / "padded", extra=training)
    return root / "padded"


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
                max_flips=1.0,
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
