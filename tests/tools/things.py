"""A task that a tiny language model can learn: the colour of a thing."""

import dataclasses
import json

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


def new_language_model(task_folder, folder, architecture="gemma2", seed=0, context=48):
    """Write an untrained model that can read the task; return its folder."""
    from train.data.tasks import load_task
    from train.models import save_language_model
    from train.models.untrained import Shape, trained_tokenizer, untrained_language_model

    if not folder.exists():
        task = load_task(str(task_folder))
        tokenizer = trained_tokenizer([e.prompt + e.completion for e in task.train], 300)
        shape = Shape(width=16, layers=1, heads=2, kv_heads=1, inner=32, context=context)
        if architecture == "gpt2":
            shape = dataclasses.replace(shape, kv_heads=shape.heads)
        model = untrained_language_model(architecture, shape, tokenizer, seed=seed)
        save_language_model(model, folder, extra={"command": "new-lm"})
    return folder
