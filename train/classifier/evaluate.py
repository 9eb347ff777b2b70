"""Prints the metrics of a classifier's checkpoint, alone and with an M_L."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import metrics
from edge_runtime.files import write_atomically
from train import data
from train.classifier.checkpoints import open_for, right_of
from train.classifier.settings import EvaluateSettings
from train.data import LabelledData
from train.errors import DataError
from train.models import Checkpoint

Figures = dict[str, Any]
Floats = npt.NDArray[np.float64]


def evaluate(settings: EvaluateSettings) -> None:
    """Print the metrics, and write them as JSON if `out` is set."""
    split = _load_split(settings)
    small = open_for(settings.checkpoint, split, settings.data, device=settings.device)
    logits = small.predict(split.inputs)
    right = (logits.argmax(axis=-1) == split.labels).astype(float)
    quality = None
    if settings.large is not None:
        large = open_for(settings.large, split, settings.data, device=settings.device)
        quality = right_of(large, split).astype(float)
    # float64: in float32 the confidence saturates at 1 and makes ties.
    columns = {"confidence": metrics.max_softmax(logits)}
    second_look: Figures = {}
    if settings.second_look != "none":
        columns["confidence_second_look"], second_look = _look_twice(settings, small, split, logits)
    figures = {name: _figures(g, right, quality) for name, g in columns.items()}
    _print(list(figures.values()), second_look)
    if np.isnan(figures["confidence"]["s_o"]):
        hits = int(right.sum())
        print(f"note: s_o needs two right and two wrong inputs, got {hits} and {len(right) - hits}")
    if settings.out is not None:
        rows = {**{n: g.tolist() for n, g in columns.items()}, "small_quality": right.tolist()}
        record: Figures = {"figures": figures["confidence"], "ids": list(split.ids), **rows}
        if second_look:
            record["second_look"] = {**second_look, "figures": figures["confidence_second_look"]}
        write_atomically(settings.out, json.dumps(record, indent=2) + "\n")


def _load_split(settings: EvaluateSettings) -> LabelledData:
    split: LabelledData
    if settings.split == "all":
        split = data.load_all(settings.data)
    else:
        split = getattr(
            data.load(
                settings.data, limit=settings.limit, skip_unreadable=settings.skip_unreadable
            ),
            settings.split,
        )
    if settings.second_look != "none" and split.kind != "image":
        raise DataError(
            f"expected pictures for --second-look {settings.second_look}, {settings.data} holds "
            f"{split.kind}s: leave the flag out"
        )
    return split


def _look_twice(
    settings: EvaluateSettings, checkpoint: Checkpoint, split: LabelledData, logits: Any
) -> tuple[Floats, Figures]:
    """Return (confidences after the second look, description of it)."""
    first = metrics.max_softmax(logits)
    second = metrics.probability_of(
        checkpoint.predict(split.inputs, view=settings.second_look), logits.argmax(axis=-1)
    )
    low, high = metrics.band_limits(first, settings.deferral, settings.band)
    share = float(metrics.in_band(first, low, high).mean())
    description = {
        "view": settings.second_look,
        "band": settings.band,
        "deferral": settings.deferral,
        "passes": 1.0 + share,
    }
    return metrics.second_look(first, second, low, high), description


def _figures(confidence: Floats, right: Floats, large: Floats | None) -> Figures:
    alone = {
        "acc(M_S)": float(right.mean()),
        "s_o": metrics.distributional_overlap(confidence, right),
        "AUROC": metrics.auroc(confidence, right),
    }
    if large is None:
        return alone
    columns = (confidence, right, large)
    performance = metrics.deferral_performance(*columns)
    return {
        **alone,
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


def _print(columns: list[Figures], second_look: Figures) -> None:
    """Print one line per figure, without and with the second look side by side."""
    if second_look:
        view, band = second_look["view"], second_look["band"]
        print(f"{'':28} one view  second look ({view}, band {band:g})")
    for name in columns[0]:
        print(f"{name:28} {'  '.join(_text(figures[name]) for figures in columns)}".rstrip())
    if second_look:
        passes = (1.0, second_look["passes"])
        print(f"{'forward passes per input':28} {'  '.join(map(_text, passes))}".rstrip())


def _text(value: float | str) -> str:
    return f"{value if isinstance(value, str) else f'{value:.4f}':8}"
