"""The command `python -m train evaluate`: the metrics of a checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_runtime.cli import Command, field
from edge_runtime.contract import SecondView
from edge_runtime.errors import SettingError

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Command):
    """Print accuracy, s_o and AUROC of a checkpoint, and s_d and joint accuracy beside an M_L.

    With --second-look a second column shows them with a second view of the inputs near the
    threshold, and what that costs.

    Example: python -m train evaluate --checkpoint runs/tuned --data digits --large runs/large
    """

    checkpoint: Path = field("checkpoint folder of M_S")
    data: str = field("data set name, folder or file", default="digits")
    split: Literal["train", "validation", "test", "all"] = field(
        "split to use; all takes every labelled input of the data", default="test"
    )
    large: Path | None = field("checkpoint folder of M_L", default=None)
    second_look: SecondView = field("second view, averaged with the first", default="none")
    band: float = field(
        "which inputs a second look is taken of: within so many ranks of the threshold's, as a "
        "share of the split; 1 is every input",
        default=0.1,
    )
    deferral: float = field("deferral ratio that the band lies around", default=0.3)
    device: Literal["auto", "cpu", "cuda"] = field("auto takes CUDA where it is", default="auto")
    limit: int | None = field("use at most so many pictures", default=None)
    out: Path | None = field("where to write the JSON", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.band >= 0:
            raise SettingError(f"expected --band of at least 0, got {self.band}")
        if not 0 <= self.deferral <= 1:
            raise SettingError(f"expected --deferral in [0, 1], got {self.deferral}")

    def run(self) -> None:
        """Print the metrics, and write them as JSON where asked."""
        split = self._load()
        self._require_pictures(split)
        small = self._open(self.checkpoint, split)
        large = None if self.large is None else self._open(self.large, split)
        logits = small.predict(split.inputs)
        right = (logits.argmax(axis=-1) == split.labels).astype(float)
        quality = None
        if large is not None:
            quality = (large.predict(split.inputs).argmax(axis=-1) == split.labels).astype(float)
        columns = {"confidence": _first(logits)}
        looked: Figures = {}
        if self.second_look != "none":
            columns["confidence_second_look"], looked = self._look(small, split, logits)
        figures = {name: _figures(g, right, quality) for name, g in columns.items()}
        _print(list(figures.values()), looked)
        if self.out is not None:
            rows = {**{n: g.tolist() for n, g in columns.items()}, "small_quality": right.tolist()}
            record: Figures = {"figures": figures["confidence"], "ids": list(split.ids), **rows}
            if looked:
                record["second_look"] = {**looked, "figures": figures["confidence_second_look"]}
            self.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _load(self) -> Any:
        from train import data

        if self.split == "all":
            return data.load_all(self.data)
        return getattr(data.load(self.data, limit=self.limit), self.split)

    def _require_pictures(self, split: Any) -> None:
        from train.errors import DataError

        if self.second_look != "none" and split.kind != "image":
            raise DataError(
                f"expected pictures for --second-look {self.second_look}, {self.data} holds "
                f"{split.kind}s: leave it out"
            )

    def _open(self, path: Path, split: Any) -> Any:
        from train.classifier.checkpoints import open_for
        from train.training.schedule import move_to

        return move_to(open_for(path, split, self.data), self.device)

    def _look(self, checkpoint: Any, split: Any, logits: Any) -> tuple[Any, Figures]:
        """Return the confidences after a second look, and what it was."""
        from edge_runtime import metrics

        first = _first(logits)
        second = metrics.probability_of(
            checkpoint.predict(split.inputs, view=self.second_look), logits.argmax(axis=-1)
        )
        low, high = metrics.band_limits(first, self.deferral, self.band)
        share = float(metrics.in_band(first, low, high).mean())
        described = {
            "view": self.second_look,
            "band": self.band,
            "deferral": self.deferral,
            "passes": 1.0 + share,
        }
        return metrics.second_look(first, second, low, high), described


def _first(logits: Any) -> Any:
    from edge_runtime import metrics

    # float64: in float32 the confidence saturates at 1 and makes ties.
    return metrics.max_softmax(logits)


def _figures(confidence: Any, right: Any, large: Any | None) -> Figures:
    from edge_runtime import metrics

    figures = {
        "acc(M_S)": float(right.mean()),
        "s_o": metrics.distributional_overlap(confidence, right),
        "AUROC": metrics.auroc(confidence, right),
    }
    return figures if large is None else figures | _joint_figures(confidence, right, large)


def _joint_figures(confidence: Any, right: Any, large: Any) -> Figures:
    from edge_runtime import metrics

    columns = (confidence, right, large)
    performance = metrics.deferral_performance(*columns)
    return {
        "acc(M_L)": performance.p_l,
        "s_d": performance.s_d,
        "s_d_star": performance.s_d_star,
        "status": performance.status,
        **{
            f"joint accuracy at {r:.0%}": metrics.joint_accuracy_at(*columns, r)
            for r in (0.1, 0.3, 0.5)
        },
        "area under joint accuracy": metrics.joint_accuracy_area(*columns),
    }


def _print(columns: list[Figures], looked: Figures) -> None:
    """Print a line a figure, with and without the second look side by side."""
    if looked:
        print(f"{'':28} one view  second look ({looked['view']}, band {looked['band']:g})")
    for name in columns[0]:
        print(f"{name:28} {'  '.join(_text(figures[name]) for figures in columns)}".rstrip())
    if looked:
        passes = (1.0, looked["passes"])
        print(f"{'forward passes an input':28} {'  '.join(map(_text, passes))}".rstrip())


def _text(value: float | str) -> str:
    return f"{value if isinstance(value, str) else f'{value:.4f}':8}"
