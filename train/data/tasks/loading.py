"""Loads a task by name, or from a file or folder of prompts and completions."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from train.data.tasks.choices import ARC_SOURCES, MMLU_SHOTS, MMLU_SOURCES, load_arc, load_mmlu
from train.data.tasks.numbers import GSM8K_SOURCES, SVAMP_SOURCES, load_gsm8k, load_svamp
from train.data.tasks.sources import Source
from train.data.tasks.task import Task
from train.data.tasks.texts import INTENT_SOURCES, load_completions, load_intents
from train.errors import DataError

SOURCES: Final[dict[str, Source]] = {
    **ARC_SOURCES,
    **MMLU_SOURCES,
    **GSM8K_SOURCES,
    **SVAMP_SOURCES,
    **INTENT_SOURCES,
}
TASKS: Final[tuple[str, ...]] = tuple(SOURCES)
"""Names of the known tasks."""

_LOADERS: Final[dict[str, Callable[[str, str | None, int], Task]]] = {
    **dict.fromkeys(ARC_SOURCES, load_arc),
    **dict.fromkeys(GSM8K_SOURCES, load_gsm8k),
    **dict.fromkeys(SVAMP_SOURCES, load_svamp),
    **dict.fromkeys(INTENT_SOURCES, load_intents),
}


def load_task(
    name: str,
    *,
    data: str | None = None,
    shots: int | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> Task:
    """Load a task.

    Args:
        name: One of `TASKS`, or a jsonl file of {"prompt", "completion"}, or a folder with
            train.jsonl, validation.jsonl and test.jsonl.
        data: Source of a known task: a folder or file in its original form or in its Hugging Face
            layout, or a Hugging Face name. By default its folder under the environment variable
            GATEKEEPER_DATA (../shared/data if unset), or its published name at Hugging Face if
            there is no such folder.
        shots: Number of answered questions that a prompt of mmlu opens with (default: 5).
        seed: Seed of splits that are carved out of train.
        limit: Most examples per split; they are evenly spaced.

    Raises:
        DataError: There is no such task, or its data are missing, damaged or of another kind.
    """
    if limit is not None and limit < 1:
        raise DataError(f"expected a limit of at least 1, got {limit}")
    if shots is not None and name not in MMLU_SOURCES:
        raise DataError(f"expected shots only with mmlu, got {shots} for {name}: leave them out")
    if shots is not None and shots < 0:
        raise DataError(f"expected shots of at least 0, got {shots}")
    return _load(name, data, shots, seed).limited(limit)


def _load(name: str, data: str | None, shots: int | None, seed: int) -> Task:
    if name in MMLU_SOURCES:
        return load_mmlu(name, data, seed, MMLU_SHOTS if shots is None else shots)
    if name in _LOADERS:
        return _LOADERS[name](name, data, seed)
    path = Path(name).expanduser()
    if not path.exists():
        close = difflib.get_close_matches(name, TASKS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise DataError(
            f"expected a task ({', '.join(TASKS)}) or a jsonl file or folder of prompts and "
            f"completions, got {name!r}{hint}: nothing is there"
        )
    if data is not None:
        raise DataError(f"expected no other data with the path {name}, got {data}: name only one")
    return load_completions(path, seed)
