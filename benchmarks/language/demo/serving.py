"""Runs the cascades of `demo --task`: exports M_S, serves M_L, asks for the test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands.cascade import DemoSettings
from benchmarks.language.demo.cascades import Asked, Shipped, ask, export

# MERGEDOC benchmarks/language/hearing.py: 'Asks the checkpoints of the demo in PyTorch, and keeps what they say.'
from benchmarks.processes import running_server
from benchmarks.steps import step
from edge_runtime import contract
from edge_runtime.bundle import read_bundle
from edge_runtime.texts import tokenizer_file
from train.comparison.scores import SPLITS
from train.data.tasks import Task
from train.language.answers import Answers, answer_split, load_answers, save_answers
from train.language.rivals import Asking, Heard
from train.models import open_language_model


@dataclass(frozen=True)
class Ran:
    """What cascades said, and what they took.

    Attributes:
        asked: By name; the rows are seeds.
        files: By name: the bytes sent a prompt, and those of the graph.
    """

    asked: Mapping[str, Asked]
    files: Mapping[str, Mapping[str, float]]


def run_cascades(
    settings: DemoSettings,
    task: Task,
    which: Sequence[Shipped],
    large: Path,
    folders: Mapping[int, Path],
) -> Ran:
    """Export, calibrate, serve and ask.

    Args:
        settings: Of the demo.
        task: Whose test set is asked.
        which: What is shipped.
        large: M_L's checkpoint.
        folders: By seed: where its models and answers are.
    """
    bundles: dict[Shipped, dict[Path, Path]] = {one: {} for one in which}
    for seed, folder in folders.items():
        with step(f"seed {seed}: export and calibrate"):
            for one in which:
                bundles[one][folder] = export(settings, one, folder)
    flags = ["--max-new-tokens", str(task.max_new_tokens), "--port", "0"]
    said = read_answers(settings.out, "large")
    with (
        step("the test set over gRPC"),
        running_server(["cloud_stub", "--checkpoint", str(large), *flags]) as address,
    ):
        runs = {
            one: [
                ask(bundle, task, address, read_answers(folder, one.model), said)
                for folder, bundle in places.items()
            ]
            for one, places in bundles.items()
        }
    return Ran(
        {one.name: Asked.joined([asked for asked, _ in found]) for one, found in runs.items()},
        {
            one.name: {
                "sent_bytes": float(np.mean([sent for _, sent in found])),
                "graph_bytes": _graph_bytes(next(iter(bundles[one].values()))),
            }
            for one, found in runs.items()
        },
    )


def _graph_bytes(place: Path) -> int:
    """Return how large the graph is with its weights; the tokenizer does not count."""
    bundle = read_bundle(place, contract.ROLE_DECODER)
    files = {bundle.graph, *bundle.others} - {tokenizer_file(bundle)}
    return sum(file.stat().st_size for file in files)


def answers(model: Path, task: Task, folder: Path, asking: Asking) -> dict[str, Answers]:
    """Return what a model says to validation and test; kept, so that they can be read again.

    Args:
        model: The checkpoint.
        task: Whose splits.
        folder: Of the seed: its answers are written there.
        asking: What is asked, and the model's name.
    """
    opened = open_language_model(model)
    found = {}
    name = asking.model if asking.instruction is None else f"{asking.model}-{_slug(asking)}"
    for split in SPLITS:
        found[split] = answer_split(
            opened,
            task,
            task.splits()[split],
            instruction=asking.instruction,
            watch_text=asking.watch,
        )
        path = _file(folder, name, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_answers(path, found[split])
    return found


def heard(model: Path, task: Task, asking: Asking, large: Mapping[str, Any], folder: Path) -> Heard:
    """Return the same beside where M_L is right; see `answers`."""
    found = answers(model, task, folder, asking)
    return Heard(found, large, open_language_model(model).vocabulary, task.answers)


def read_answers(folder: Path, model: str) -> Answers:
    """Return what a model of a seed said to the test set.

    Raises:
        DataError: The file is missing or damaged.
    """
    return load_answers(_file(folder, model, "test"))


def _file(folder: Path, name: str, split: str) -> Path:
    return folder / "answers" / f"{name}-{split}.npz"


def _slug(asking: Asking) -> str:
    return "answer-n" if asking.watch else "reduce-confidence"
