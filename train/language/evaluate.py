"""Evaluates a language model on a task: accuracy, and the metrics of every confidence."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime import environment
from edge_runtime.files import write_atomically
from train.comparison.figures import figures, joint_name
from train.data.tasks import Example, Task, load_task
from train.errors import DataError
from train.language.answers import Answers, Bools, answer_split, most_frequent, save_answers
from train.language.rivals import candidate, uncertainty
from train.language.settings import EvaluateLanguageSettings
from train.models import open_language_model
from train.training.schedule import move_model

Figures = dict[str, Any]
_RATIO = 0.3
_SHOWN = 3
_COLLAPSED = 0.5


def evaluate(settings: EvaluateLanguageSettings) -> None:
    """Print the metrics, and write them with the answers to `settings.out`.

    Raises:
        DataError: The task is missing or damaged, or the split is empty.
        CheckpointError: A model does not open.
        DeviceError: CUDA is required but not available.
    """
    task = load_task(
        settings.task,
        data=settings.data,
        shots=settings.shots,
        seed=settings.seed,
        limit=settings.limit,
    )
    examples = task.splits()[settings.split]
    if not examples:
        raise DataError(
            f"expected examples in the {settings.split} split of {settings.task}, got none"
        )
    small, vocabulary = _answer(settings, settings.checkpoint, task, examples)
    large = None if settings.large is None else _answer(settings, settings.large, task, examples)[0]
    content = {
        "task": settings.task,
        "split": settings.split,
        "n": len(small.ids),
        "accuracy": float(small.right.mean()),
        "unparsed": float(small.unparsed.mean()),
        "most frequent answer": most_frequent(small.codes),
        "tokens/s": small.tokens_per_s,
        "refused": dict(small.refused),
        "left_out": list(task.left_out),
        **({} if large is None else {"acc(M_L)": float(large.right.mean())}),
        **figures_by_kind(small, None if large is None else large.right, vocabulary),
    }
    print("\n".join(render(content)))
    if settings.out is not None:
        _write(settings.out, content, small, large)


def _answer(
    settings: EvaluateLanguageSettings, path: Path, task: Task, examples: Sequence[Example]
) -> tuple[Answers, int]:
    """Return the answers of the model in a folder, and the size of its vocabulary."""
    model = open_language_model(path, weights=settings.weights)
    move_model(model.model, settings.device)
    return answer_split(model, task, examples), model.vocabulary


def _write(out: Path, content: Figures, small: Answers, large: Answers | None) -> None:
    for suffix, answers in (("", small), ("-large", large)):
        if answers is not None:
            save_answers(out.with_name(f"{out.stem}{suffix}-answers.npz"), answers)
    record = {**environment.describe("train"), **content}
    write_atomically(out, json.dumps(record, indent=2) + "\n")


def figures_by_kind(answers: Answers, large: Bools | None, vocabulary: int) -> Figures:
    """Return the figures of every confidence, and the best confidence.

    The best has the highest joint accuracy at 30 % deferral, or without M_L the highest AUROC.

    Args:
        answers: The answers of M_S.
        large: Whether M_L is right, bool [n]; None without M_L.
        vocabulary: V, the number of M_S's tokens.
    """
    quality = None if large is None else large.astype(float)
    found = {}
    for kind, confidence in answers.confidence.items():
        values = uncertainty(kind, confidence, vocabulary)
        found[kind] = figures(candidate(kind, values[None], answers.right[None]), quality)
    by = "AUROC" if large is None else joint_name(_RATIO)
    known = {kind: row[by] for kind, row in found.items() if not math.isnan(row[by])}
    differ = len(set(known.values())) > 1
    best = max(known, key=known.__getitem__) if differ else None
    return {"by": by, "best": best, "figures": found}


def render(content: Figures) -> list[str]:
    """Return the lines that the command prints."""
    lines = [f"{'examples':24}{content['n']}"]
    shares = ("accuracy", "unparsed", "most frequent answer", "acc(M_L)")
    lines += [f"{name:24}{_text(content[name])}" for name in shares if name in content]
    lines.append(f"{'tokens/s':24}{content['tokens/s']:.0f}")
    if content.get("most frequent answer", 0.0) >= _COLLAPSED:
        lines.append(
            "warning: at least half of the answers are one and the same: unless that holds for the "
            "right answers too, this model has collapsed"
        )
    lines += _refused(content["refused"]) + _left_out(content["left_out"])
    rows = content["figures"]
    names = next(iter(rows.values()))
    lines.append("".join([f"\n{'':24}", *(f"{name:>{len(name) + 2}}" for name in names)]))
    for kind, row in rows.items():
        mark = " *" if kind == content["best"] else ""
        cells = (f"{_text(row[name]):>{len(name) + 2}}" for name in names)
        lines.append("".join([f"{kind + mark:24}", *cells]))
    if content["best"] is None:
        return [*lines, f"No confidence is best: their {content['by']} does not differ."]
    return [*lines, f"* the best {content['by']} on this split ({content['split']})"]


def _refused(reasons: dict[str, int]) -> list[str]:
    lines = [f"{'not answered':24}{n}: {why}" for why, n in list(reasons.items())[:_SHOWN]]
    rest = list(reasons.values())[_SHOWN:]
    more = [f"{'not answered':24}{sum(rest)} for {len(rest)} more reasons"] if rest else []
    return lines + more


def _left_out(ids: list[str]) -> list[str]:
    if not ids:
        return []
    named = ", ".join(ids[:_SHOWN])
    return [f"{'left out of the task':24}{len(ids)}, right answer not readable: {named}"]


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
