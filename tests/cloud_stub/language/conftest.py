"""A tiny language model, a server of it, and a small server with OpenAI's interface."""

import contextlib
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import tools.completions_server
import torch
from tools.language_models import SHAPE, tiny
from tools.prompts import Asker

from train.models.language import open_language_model, save_language_model

MOST = 24


@pytest.fixture(scope="session")
def save_tiny(tmp_path_factory):
    """Return a function that writes a tiny model without an end; it returns (folder, model)."""

    def save(name, context):
        folder = tmp_path_factory.mktemp("language") / name
        made = tiny("llama", shape=dataclasses.replace(SHAPE, context=context))
        with torch.no_grad():
            # The end's logit is then 0, below the greatest of the 279 random ones.
            made.model.float().get_input_embeddings().weight[made.tokenizer.eos_token_id] = 0
        save_language_model(made, folder)
        return folder, open_language_model(folder)

    return save


@pytest.fixture(scope="session")
def model(save_tiny):
    return save_tiny("tiny", 96)


@pytest.fixture(scope="session")
def generator(model, save_tiny, start, tmp_path_factory):
    """One server for all tests; none of them may harm it.

    Besides `large` it has models that generate for hours or wait until there are several calls.
    """
    talker, _ = save_tiny("talker", 1 << 20)
    # Its work is too little for two threads.
    patient, endless = "max_delay_ms = 50000", "max_new_tokens = 1000000\nstall = 3600\nthreads = 1"
    short = f'checkpoint = "{model[0]}"\nmax_new_tokens = {MOST}\nthreads = 1'
    tables = [
        f'model = "large"\n{short}',
        f'model = "talker"\ncheckpoint = "{talker}"\n{endless}',
        f'model = "three"\n{short}\nmax_batch = 3\n{patient}',
        f'model = "two"\ncheckpoint = "{talker}"\n{endless}\nmax_batch = 2',
        f'model = "narrow"\n{short}\nmax_batch = 2\nmax_queue = 16',
        f'model = "restless"\ncheckpoint = "{talker}"\n{endless}'.replace("= 3600", "= 0.5"),
        f'model = "pair"\ncheckpoint = "{talker}"\n{endless}\nmax_batch = 2\n{patient}',
    ]
    file = tmp_path_factory.mktemp("models") / "models.toml"
    file.write_text("".join(f"[[model]]\n{table}\n" for table in tables))
    running = start("--models", str(file), "--port", "0")
    yield running
    assert running.stop() == 0
    assert "Traceback" not in "".join(running.errors)


@pytest.fixture
def asker(generator):
    with Asker(generator.address) as opened:
        yield opened


@contextlib.contextmanager
def completions_server(*flags):
    command = [sys.executable, Path(tools.completions_server.__file__), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@pytest.fixture(scope="session")
def open_completions():
    """Return a context manager that runs a server with OpenAI's interface and yields its port."""
    return completions_server
