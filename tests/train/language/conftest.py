"""A small task and small language models that the tests of this folder share."""

import json

import pytest
from tools.colours import COLOURS

THINGS = {
    "sky": "blue",
    "sea": "blue",
    "grass": "green",
    "leaf": "green",
    "blood": "red",
    "rose": "red",
    "snow": "white",
    "milk": "white",
}


def write_task(folder, rows=96):
    """Write a task that a tiny model can learn: the colour of a thing."""
    folder.mkdir(parents=True, exist_ok=True)
    things = list(THINGS)
    for split, size, shift in (("train", rows, 0), ("validation", 24, 1), ("test", 24, 2)):
        lines = []
        for i in range(size):
            thing, beside = things[i % len(things)], things[(i // len(things) + shift) % 8]
            prompt = f"not {beside} but {thing}:" if i % 3 else f"the {thing}:"
            lines.append({"prompt": prompt, "completion": f" {THINGS[thing]}"})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def things(tmp_path_factory):
    """Return the folder of a task of colours."""
    return write_task(tmp_path_factory.mktemp("tasks") / "things")


@pytest.fixture(scope="session")
def new_model(things, tmp_path_factory):
    """Return a function that writes an untrained model and returns its folder."""
    from train.data.tasks import load_task
    from train.models import save_language_model
    from train.models.untrained import Shape, trained_tokenizer, untrained_language_model

    task = load_task(str(things))
    tokenizer = trained_tokenizer([e.prompt + e.completion for e in task.train], 300)
    shape = Shape(width=16, layers=1, heads=2, kv_heads=1, inner=32, context=48)
    root = tmp_path_factory.mktemp("language-models")

    def write(architecture="gemma2", seed=0):
        folder = root / f"{architecture}-{seed}"
        if not folder.exists():
            model = untrained_language_model(architecture, shape, tokenizer, seed=seed)
            save_language_model(model, folder, extra={"command": "new-lm"})
        return folder

    return write


@pytest.fixture(scope="session")
def tiny():
    """Return an untrained Llama that reads bytes and a few merges, context 64."""
    from train.models.untrained import Shape, trained_tokenizer, untrained_language_model

    tokenizer = trained_tokenizer(["colour 1: red", "colour 2: green", " N N N"], 300)
    shape = Shape(width=16, layers=1, heads=2, kv_heads=1, inner=32, context=64)
    return untrained_language_model("llama", shape, tokenizer, seed=1)


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
