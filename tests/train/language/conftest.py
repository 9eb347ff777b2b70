"""A small task and small language models that the tests of this folder share."""

import json

import pytest

COLOURS = {
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
    things = list(COLOURS)
    for split, size, shift in (("train", rows, 0), ("validation", 24, 1), ("test", 24, 2)):
        lines = []
        for i in range(size):
            thing, beside = things[i % len(things)], things[(i // len(things) + shift) % 8]
            prompt = f"not {beside} but {thing}:" if i % 3 else f"the {thing}:"
            lines.append({"prompt": prompt, "completion": f" {COLOURS[thing]}"})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """Return the folder of a task of colours."""
    return write_task(tmp_path_factory.mktemp("tasks") / "colours")


@pytest.fixture(scope="session")
def new_model(colours, tmp_path_factory):
    """Return a function that writes an untrained model and returns its folder."""
    from train.data.tasks import load_task
    from train.models import save_language_model
    from train.models.untrained import Shape, trained_tokenizer, untrained_language_model

    task = load_task(str(colours))
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
