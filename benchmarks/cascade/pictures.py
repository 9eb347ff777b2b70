"""Draws the pictures of a result folder from its per-sample file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from benchmarks.cascade.samples import Samples
from edge_runtime import metrics

mpl.use("Agg")  # files only: no display is needed

NAMES = ("deferral", "densities", "roc", "latency")
"""The pictures in the order of the page."""
_COLORS = {"untuned": "#7f7f7f", "control": "#1f77b4", "tuned": "#d62728"}
_LINES = ("green", "orange", "blue", "red")
_BINS = 40


def draw(
    variants: Mapping[str, Samples], folder: Path, *, confidence: str = "max softmax"
) -> list[Path]:
    """Write the pictures of the first seed; return their files.

    Args:
        variants: Samples by variant. If no call was timed, no times are drawn.
        folder: Folder to write to.
        confidence: Name of the confidence.
    """
    painters: dict[str, Callable[[Mapping[str, Samples]], Any]] = {
        "deferral": _deferral,
        "densities": partial(_densities, kind=confidence),
        "roc": _roc,
    }
    written = [_save(paint(variants), folder, name) for name, paint in painters.items()]
    if any(np.isfinite(samples.total_ms).any() for samples in variants.values()):
        calls = {name: _calls(samples) for name, samples in variants.items()}
        written.append(draw_times(calls, folder))
    return written


def draw_times(calls: Mapping[str, Mapping[str, Any]], folder: Path) -> Path:
    """Write latency.png: a panel per cascade, a line per kind of call.

    Args:
        calls: Times in milliseconds by cascade and kind of call; NaN is left out.
        folder: Folder to write to.
    """
    return _save(_times(calls), folder, "latency")


def _save(figure: Any, folder: Path, name: str) -> Path:
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)
    return path


def _columns(samples: Samples) -> tuple[Any, Any, Any]:
    return (
        samples.confidence[:, 0],
        samples.small_quality[:, 0],
        samples.large_quality[:, 0],
    )


def _panels(variants: Collection[str], title: str) -> tuple[Any, Any]:
    figure, axes = plt.subplots(
        1,
        len(variants),
        figsize=(4.2 * len(variants), 3.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    figure.suptitle(title)
    for axis, name in zip(axes[0], variants, strict=True):
        axis.set_title(name)
        axis.grid(alpha=0.3)
    return figure, axes[0]


def _deferral(variants: Mapping[str, Samples]) -> Any:
    figure, axes = _panels(variants, "Joint accuracy over the share of deferred inputs")
    for axis, (name, samples) in zip(axes, variants.items(), strict=True):
        performance = metrics.deferral_performance(*_columns(samples))
        ends = (performance.p_s, performance.p_l)
        axis.plot([0, 1], ends, ":", color="black", label="random")
        axis.plot(*performance.ideal, "--", color="green", label="ideal")
        axis.plot(*performance.curve, color=_COLORS.get(name), label="real")
        axis.set_xlabel(f"deferral ratio   (s_d = {performance.s_d:.3f})")
    axes[0].set_ylabel("joint accuracy")
    axes[0].legend(loc="lower right")
    return figure


def _densities(variants: Mapping[str, Samples], *, kind: str) -> Any:
    figure, axes = _panels(variants, "Confidence of right and of wrong answers of M_S")
    for axis, samples in zip(axes, variants.values(), strict=True):
        confidence, right, _ = _columns(samples)
        bins = np.linspace(np.nanmin(confidence), 1.0, _BINS)
        for value, color, label in ((1, "green", "right"), (0, "red", "wrong")):
            chosen = confidence[right == value]
            if not np.isfinite(chosen).any():
                continue  # a share of nothing has no density
            text = f"{label} ({len(chosen)})"
            axis.hist(
                chosen, bins=bins, density=True, histtype="step", lw=1.6, color=color, label=text
            )
        axis.set_yscale("log")
        axis.set_xlabel(f"confidence ({kind})")
        axis.legend()
    axes[0].set_ylabel("density")
    return figure


def _roc(variants: Mapping[str, Samples]) -> Any:
    figure, axis = plt.subplots(figsize=(4.6, 4.4))
    for name, samples in variants.items():
        confidence, right, _ = _columns(samples)
        order = np.argsort(-confidence, kind="stable")
        hits, misses = np.cumsum(right[order]), np.cumsum(1 - right[order])
        label = f"{name} (AUROC {metrics.auroc(confidence, right):.3f})"
        axis.plot(
            np.r_[0, misses / max(misses[-1], 1)],
            np.r_[0, hits / max(hits[-1], 1)],
            color=_COLORS.get(name),
            label=label,
        )
    axis.plot([0, 1], [0, 1], ":", color="black")
    axis.set(xlabel="share of wrong answers kept", ylabel="share of right answers kept")
    axis.set_title("Does confidence separate right from wrong?")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return figure


def _calls(samples: Samples) -> dict[str, Any]:
    times, deferred = samples.total_ms.ravel(), samples.deferred.ravel() > 0
    return {"edge": times[~deferred], "deferred": times[deferred]}


def _times(calls: Mapping[str, Mapping[str, Any]]) -> Any:
    figure, axes = _panels(calls, "Time of a call")
    for axis, lines in zip(axes, calls.values(), strict=True):
        for (label, times), color in zip(lines.items(), _LINES, strict=False):
            values = np.sort(times[~np.isnan(times)])
            if values.size:
                share = np.arange(1, values.size + 1) / values.size
                axis.plot(values, share, color=color, label=f"{label} ({values.size})")
        axis.set_xscale("log")
        axis.set_xlabel("milliseconds")
        # Under the panel; inside it would hide curves.
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncol=2, fontsize="small")
    axes[0].set_ylabel("share of calls")
    return figure
