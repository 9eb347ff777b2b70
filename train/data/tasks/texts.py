"""Tasks with a text as the answer: CLINC150, Banking77, and jsonl files of completions.

CLINC150 (Larson et al. 2019) and Banking77 (Casanueva et al. 2020) ask for the intent of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from train.data.records import json_value, read_text
from train.data.tasks.parsers import LabelParser, label_words, parse_text
from train.data.tasks.rows import Row, SplitRows, read_rows
from train.data.tasks.sources import Source, split_files, split_of
from train.data.tasks.task import Example, Task, assemble, convert_rows
from train.errors import DataError

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
    """Return one of the two intent tasks; CLINC150 without its out-of-scope class.

    Raises:
        DataError: The data are missing or damaged, or two labels have the same words.
    """
    source = INTENT_SOURCES[name]
    kept = {
        split: [row for row in rows if _label(row) != _OUT_OF_SCOPE]
        for split, rows in source.read(data, _full_file).items()
    }
    answers = _answers(source.place(data), kept)
    examples = convert_rows(kept, _intent_example)
    return assemble(name, examples, LabelParser(answers), seed=seed, answers=answers)


def _full_file(place: Path) -> SplitRows | None:
    """Return the rows of CLINC150's original file, which holds pairs [text, intent] by split."""
    path = place if place.name == _FULL else place / _FULL
    if not path.is_file():
        return None
    content = json_value(read_text(path), str(path))
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
            f"expected the name of a class in {row.where}, got {label!r:.40}: use data with names"
        )
    return label


def _answers(place: Path | str, rows: SplitRows) -> tuple[str, ...]:
    folder = place.parent if isinstance(place, Path) and place.is_file() else place
    path = folder / _CATEGORIES if isinstance(folder, Path) else None
    if path is not None and path.is_file():
        names = _names(json_value(read_text(path), str(path)), path)
    else:
        names = sorted({_label(row) for part in rows.values() for row in part})
    words = tuple(label_words(name) for name in names)
    if len(set(words)) < len(words):
        repeated = sorted({word for word in words if words.count(word) > 1})
        raise DataError(f"expected labels that differ in their words, got {repeated[:3]} twice")
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
    """Return the task of a jsonl file, or of a folder with train, validation and test.

    An answer is right if it equals the completion, white space aside. A file is split at random,
    unless it is named after a split; a tenth of train replaces each missing split.

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
    rows = {split: [r for p in paths for r in read_rows(p)] for split, paths in files.items()}
    return assemble(str(path), convert_rows(rows, _completion_example), parse_text, seed=seed)


def _completion_example(row: Row, number: str) -> Example:
    row.text("prompt")  # refuses an empty prompt; line breaks at its end belong to it
    prompt = row.get("prompt").rstrip(" \t")
    completion = row.get("completion")
    gold = parse_text(row.text("completion"))
    # The space belongs to the completion: tokenizers attach it to the word after it.
    joint = "" if prompt.endswith("\n") or completion[0].isspace() else " "
    identifier = str(row.values.get("id") or number)
    return Example(identifier, prompt, joint + completion.rstrip(), gold or "")
