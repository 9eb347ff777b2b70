"""What a text asks for, as label text.

CLINC150 (Larson et al. 2019) and Banking77 (Casanueva et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from train.data.tasks.parsers import LabelParser, label_words, parse_text
from train.data.tasks.rows import Row, read_json, read_rows
from train.data.tasks.sources import Found, Source, split_files, split_of
from train.data.tasks.task import Example, Task, assemble
from train.errors import DataError

# MERGEDOC train/data/tasks/completions.py: 'Plain prompts with their completions, in jsonl files.'

INTENT_SOURCES: Final = {
    "clinc150": Source("clinc150", "clinc/clinc_oos", "plus"),
    "banking77": Source("banking77", "PolyAI/banking77"),
}
_OUT_OF_SCOPE: Final = "oos"
_CATEGORIES: Final = "categories.json"
_FULL: Final = "data_full.json"
_FULL_SPLITS: Final = {"train": "train", "validation": "val", "test": "test"}
_LABELS: Final = ("label_text", "category", "intent", "label")

_SUFFIX: Final = ".jsonl"


def load_intents(name: str, data: str | None, seed: int) -> Task:
    """Return one of the two tasks; CLINC150's out-of-scope class is no part of it.

    Raises:
        DataError: The data are missing or damaged, or two labels have the same words.
    """
    source = INTENT_SOURCES[name]
    place = source.place(data)
    found = _full_file(place) if isinstance(place, Path) else None
    kept = {
        split: [row for row in rows if _label(row) != _OUT_OF_SCOPE]
        for split, rows in (found or source.rows(place)).items()
    }
    answers = _answers(place, kept)
    examples = {
        split: [_intent_example(row, f"{split}-{i}") for i, row in enumerate(rows)]
        for split, rows in kept.items()
    }
    return assemble(name, examples, LabelParser(answers), seed=seed, answers=answers)


def _full_file(place: Path) -> Found | None:
    """Return the rows of CLINC150's original file, [text, intent] each by split."""
    path = place if place.name == _FULL else place / _FULL
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        return {
            split: [
                Row({"text": text, "intent": intent}, f"{name} {i} of {path}")
                for i, (text, intent) in enumerate(content[name])
            ]
            for split, name in _FULL_SPLITS.items()
        }
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"expected train, val and test with pairs of text and intent in {path}"
        ) from None


def _label(row: Row) -> str:
    label = row.get(*_LABELS)
    if not isinstance(label, str):
        raise DataError(
            f"expected the name of a class in {row.where}, got {label!r:.40}: take data with names"
        )
    return label


def _answers(place: Path | str, found: Found) -> tuple[str, ...]:
    folder = place.parent if isinstance(place, Path) and place.is_file() else place
    path = folder / _CATEGORIES if isinstance(folder, Path) else None
    if path is not None and path.is_file():
        names = _names(read_json(path), path)
    else:
        names = sorted({_label(row) for rows in found.values() for row in rows})
    words = tuple(label_words(name) for name in names)
    if len(set(words)) < len(words):
        twice = sorted({word for word in words if words.count(word) > 1})
        raise DataError(f"expected labels that differ in their words, got {twice[:3]} twice")
    return words


def _names(content: Any, path: Path) -> Sequence[str]:
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise DataError(f"expected a list of names in {path}, got {content!r:.40}")
    return content


def _intent_example(row: Row, number: str) -> Example:
    label = label_words(_label(row))
    text = " ".join(row.text("text", "query").split())
    return Example(number, f"Text: {text}\nIntent:", f" {label}", label)


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
