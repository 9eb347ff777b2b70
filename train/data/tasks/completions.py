"""Plain prompts with their completions, in jsonl files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from train.data.tasks.assembly import assemble
from train.data.tasks.parsers import parse_text
from train.data.tasks.rows import Row, read_rows
from train.data.tasks.sources import split_files, split_of
from train.data.tasks.task import Example, Task
from train.errors import DataError

_SUFFIX: Final = ".jsonl"


def load_completions(path: Path, seed: int) -> Task:
    """Return the task of a file, or of a folder with train, validation and test.

    An answer is right where it is the completion, white space apart. A file is split by the seed,
    unless it is named after a split; a tenth of train stands in for each split that is missing.

    Raises:
        DataError: It is missing or damaged, or a prompt or completion is empty.
    """
    files = {split_of(path) or "train": [path]} if path.is_file() else split_files(path)
    odd = [str(p) for paths in files.values() for p in paths if p.suffix != _SUFFIX]
    if odd or not files:
        raise DataError(
            f"expected a {_SUFFIX} file of prompts and completions, or a folder with "
            f"train{_SUFFIX}, got {odd[0] if odd else path}"
        )
    examples = {
        split: [
            _completion_example(row, f"{split}-{i}")
            for i, row in enumerate(row for p in paths for row in read_rows(p))
        ]
        for split, paths in files.items()
    }
    return assemble(str(path), examples, parse_text, seed=seed)


def _completion_example(row: Row, number: str) -> Example:
    row.text("prompt")  # it must not be empty, but line ends at its end are a part of it
    prompt = row.get("prompt").rstrip(" \t")
    completion = row.get("completion")
    gold = parse_text(row.text("completion"))
    # The space belongs to the completion: tokenizers glue it to the word behind it.
    joint = "" if prompt.endswith("\n") or completion[0].isspace() else " "
    identifier = str(row.values.get("id") or number)
    return Example(identifier, prompt, joint + completion.rstrip(), gold or "")
