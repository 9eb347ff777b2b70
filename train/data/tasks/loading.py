"""Finds a task by name, or makes one of a file of prompts and completions."""

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
"""The known tasks."""

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
        data: Where a known task is read from: a folder or file in its original form or in its
            Hugging Face layout, or a Hugging Face name. By default its folder under the environment
            variable GATEKEEPER_DATA (../shared/data where unset), and its published name at Hugging
            Face where there is no such folder.
        shots: How many answered questions a prompt of mmlu opens with (default: 5).
        seed: Of splits that are carved out of train.
        limit: At most so many examples a split, evenly spaced.

    Raises:
        DataError: There is no such task, or its data are missing, damaged or not what it takes.
    """
    if limit is not None and limit < 1:
        raise DataError(f"expected a limit of at least 1, got {limit}")
    _check_shots(name, shots)
    return _loaded(name, data, shots, seed).limited(limit)


def _loaded(name: str, data: str | None, shots: int | None, seed: int) -> Task:
    if name in MMLU_SOURCES:
        return load_mmlu(name, data, seed, MMLU_SHOTS if shots is None else shots)
    if name in _LOADERS:
        return _LOADERS[name](name, data, seed)
    path = Path(name).expanduser()
    if not path.exists():
        raise _unknown(name)
    if data is not None:
        raise DataError(f"expected no other data beside the path {name}, got {data}: name one")
    return load_completions(path, seed)


def _check_shots(name: str, shots: int | None) -> None:
    if shots is None:
        return
    if name not in MMLU_SOURCES:
        raise DataError(f"expected shots for mmlu alone, got {shots} for {name}: leave them out")
    if shots < 0:
        raise DataError(f"expected shots of at least 0, got {shots}")


def _unknown(name: str) -> DataError:
    close = difflib.get_close_matches(name, TASKS, n=1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    return DataError(
        f"expected a task ({', '.join(TASKS)}) or a jsonl file or folder of prompts and "
        f"completions, got {name!r}{meant}: nothing is there"
    )
