"""The command `python -m train evaluate-lm`: the metrics of a language model on a task."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError
from edge_runtime.files import write_atomically

Figures = dict[str, Any]
_SHOWN = 3
_COLLAPSED = 0.5


@dataclass(frozen=True, kw_only=True)
class EvaluateLanguageSettings(Command):
    """Print how a language model answers a task, and what every confidence is worth.

    Beside an M_L (--large) also s_d and the joint accuracy. The confidence that does best on the
    split is marked; to choose one, take --split validation.

    Example: python -m train evaluate-lm --checkpoint runs/small --task clinc150 --large runs/large
    """

    checkpoint: Path = field("folder of the language model M_S")
    task: str = field("task name, folder or jsonl file")
    data: str | None = field("folder of the task's original files", default=None)
    split: Literal["train", "validation", "test"] = field("split to use", default="test")
    large: Path | None = field("folder of the language model M_L", default=None)
    shots: int | None = field("worked examples in front of every question", default=None)
    limit: int | None = field("use at most so many examples", default=None)
    seed: int = field("seed of the task's splits and shots", default=0)
    weights: Literal["fp32", "bf16"] = field("type to hold the weights in", default="fp32")
    device: Literal["auto", "cpu", "cuda"] = field("auto takes CUDA where it is", default="auto")
    out: Path | None = field(
        "where to write the figures as JSON; the answers are written beside it", default=None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out is not None and self.out.suffix != ".json":
            raise SettingError(f"expected --out as a file *.json, got {self.out}")

    def run(self) -> None:
        """Print the metrics, and write them where asked."""
        from train.data.tasks import load_task
        from train.errors import DataError

        task = load_task(
            self.task, data=self.data, shots=self.shots, seed=self.seed, limit=self.limit
        )
        examples = task.splits()[self.split]
        if not examples:
            raise DataError(f"expected examples in the {self.split} split of {self.task}, got none")
        small, vocabulary = self._answers(self.checkpoint, task, examples)
        large = None if self.large is None else self._answers(self.large, task, examples)[0]
        content = {
            "task": self.task,
            "split": self.split,
            **described(small, task),
            **({} if large is None else {"acc(M_L)": float(large.right.mean())}),
            **by_kind(small, None if large is None else large.right, vocabulary),
        }
        print("\n".join(lines(content)))
        self._write(content, small, large)

    def _answers(self, path: Path, task: Any, examples: Any) -> tuple[Any, int]:
        from train.language.answers import answer_split
        from train.models import open_language_model
        from train.training.schedule import move_model

        model = open_language_model(path, weights=self.weights)
        move_model(model.model, self.device)
        return answer_split(model, task, examples), model.vocabulary

    def _write(self, content: Figures, small: Any, large: Any) -> None:
        from edge_runtime import environment
        from train.language.answers import save_answers

        if self.out is None:
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        for suffix, answers in (("", small), ("-large", large)):
            if answers is not None:
                save_answers(self.out.with_name(f"{self.out.stem}{suffix}-answers.npz"), answers)
        record = {**environment.describe("train"), **content}
        write_atomically(self.out, json.dumps(record, indent=2) + "\n")


def described(answers: Any, task: Any) -> Figures:
    """Return how a model answers: right, parsed, alike, fast, and what it refused."""
    from train.language.gathering import answer_codes, most_frequent

    return {
        "n": len(answers.ids),
        "accuracy": float(answers.right.mean()),
        "unparsed": float(answers.unparsed.mean()),
        "most frequent answer": most_frequent(answer_codes(answers.parsed)),
        "tokens/s": answers.tokens_per_s,
        "refused": dict(answers.refused),
        "left_out": list(task.left_out),
    }


def by_kind(answers: Any, large: Any | None, vocabulary: int) -> Figures:
    """Return every figure of every confidence, and which does best by what.

    By the joint accuracy at 30 % beside an M_L, and by the AUROC without.

    Args:
        answers: Of M_S.
        large: Where M_L is right, bool [n].
        vocabulary: V of M_S.
    """
    from edge_runtime import metrics
    from train.comparison.figures import figures, joint_name
    from train.language.rivals import sequence_candidate

    quality = None if large is None else large.astype(float)
    found = {
        kind: figures(sequence_candidate(kind, answers, vocabulary), quality)
        for kind in metrics.SEQUENCE_KINDS
    }
    by = "AUROC" if large is None else joint_name(0.3)
    known = {kind: row[by] for kind, row in found.items() if not math.isnan(row[by])}
    differ = len(set(known.values())) > 1
    best = max(known, key=known.__getitem__) if differ else None
    return {"by": by, "best": best, "figures": found}


def lines(content: Figures) -> list[str]:
    """Render what the command prints."""
    shown = [f"{'examples':24}{content['n']}"]
    shares = ("accuracy", "unparsed", "most frequent answer", "acc(M_L)")
    shown += [f"{name:24}{_text(content[name])}" for name in shares if name in content]
    shown.append(f"{'tokens/s':24}{content['tokens/s']:.0f}")
    if content.get("most frequent answer", 0.0) >= _COLLAPSED:
        shown.append(
            "warning: half of the answers or more are one and the same: unless the right ones are "
            "too, this model has collapsed"
        )
    shown += _refused(content["refused"]) + _left_out(content["left_out"])
    rows = content["figures"]
    names = next(iter(rows.values()))
    shown.append("".join([f"\n{'':24}", *(f"{name:>{len(name) + 2}}" for name in names)]))
    for kind, row in rows.items():
        mark = " *" if kind == content["best"] else ""
        cells = (f"{_text(row[name]):>{len(name) + 2}}" for name in names)
        shown.append("".join([f"{kind + mark:24}", *cells]))
    if content["best"] is None:
        return [
            *shown,
            f"No confidence is best: none differs from another in {content['by']}.",
        ]
    return [*shown, f"* the best {content['by']} on this split ({content['split']})"]


def _refused(reasons: dict[str, int]) -> list[str]:
    shown = [f"{'not answered':24}{n}: {why}" for why, n in list(reasons.items())[:_SHOWN]]
    rest = list(reasons.values())[_SHOWN:]
    more = [f"{'not answered':24}{sum(rest)} for {len(rest)} more reasons"] if rest else []
    return shown + more


def _left_out(ids: list[str]) -> list[str]:
    if not ids:
        return []
    named = ", ".join(ids[:_SHOWN])
    return [f"{'left out of the task':24}{len(ids)} whose right answer does not parse: {named}"]


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
