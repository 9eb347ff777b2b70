"""A small task and tiny language models that the tests of this folder share."""

import json

import pytest
from tools.colours import COLOURS
from tools.things import new_language_model, write_task


@pytest.fixture(scope="session")
def things(tmp_path_factory):
    """Return the folder of a task of colours."""
    return write_task(tmp_path_factory.mktemp("tasks") / "things")


@pytest.fixture(scope="session")
def new_model(things, tmp_path_factory):
    """Return a function that writes an untrained model and returns its folder."""
    root = tmp_path_factory.mktemp("language-models")
    return lambda architecture="gemma2", seed=0: new_language_model(
        things, root / f"{architecture}-{seed}", architecture, seed
    )


def varied_model(tokenizer, seed):
    """Return an untrained Llama, context 64, with an output layer of its own.

    With its embeddings as output layer, an untrained model repeats the last token of any prompt.
    """
    import torch

    from train.models.untrained import Shape, untrained_language_model

    shape = Shape(width=16, layers=1, heads=2, kv_heads=1, inner=32, context=64)
    lm = untrained_language_model("llama", shape, tokenizer, seed=seed)
    values = torch.randn(len(tokenizer), 16, generator=torch.Generator().manual_seed(seed))
    lm.model.lm_head.weight = torch.nn.Parameter(values)
    lm.model.config.tie_word_embeddings = False
    return lm


@pytest.fixture(scope="session")
def tiny():
    """Return a tiny model whose tokenizer has the bytes and a few merges."""
    from train.models.untrained import trained_tokenizer

    return varied_model(trained_tokenizer(["colour 1: red", "colour 2: green", " N N N"], 300), 1)


@pytest.fixture(scope="session")
def other(tiny):
    """Return another tiny model with the same tokenizer."""
    return varied_model(tiny.tokenizer, 2)


@pytest.fixture(scope="session")
def colour_folder(tmp_path_factory):
    """Return the folder of the task of colours as jsonl files, six examples a split."""
    folder = tmp_path_factory.mktemp("task")
    for split in ("train", "validation", "test"):
        rows = [
            {"id": f"{split}{i}", "prompt": f"colour {i}:", "completion": COLOURS[i % 3]}
            for i in range(6)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder
