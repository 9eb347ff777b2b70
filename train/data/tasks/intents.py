"""What a text asks for, as label text.

CLINC150 (Larson et al. 2019) and Banking77 (Casanueva et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from train.data.tasks.assembly import assemble
from train.data.tasks.parsers import LabelParser, label_words
from train.data.tasks.rows import Row, read_json
from train.data.tasks.sources import Found, Source
from train.data.tasks.task import Example, Task
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
