"""Turns per-sample files into the figures of the table, with bootstrap intervals.

Every figure is the mean over seeds. An interval resamples the inputs (all seeds and variants of an
input together), so the interval of a difference is paired.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.samples import Floats, Samples
from edge_runtime import metrics

Statistic = Callable[[Floats, Floats, Floats], float]

RATIOS = (0.1, 0.3, 0.5)
RESAMPLES = 300
SLOW_RESAMPLES = 30  # s_o needs two kernel density estimates a resample
LEVEL = 0.95

STATISTICS: dict[str, Statistic] = {
    "acc(M_S)": lambda g, s, large: float(s.mean()),
    "acc(M_L)": lambda g, s, large: float(large.mean()),
    "s_d": lambda g, s, large: metrics.deferral_performance(g, s, large).s_d,
    "s_d_star": lambda g, s, large: metrics.deferral_performance(g, s, large).s_d_star,
    "s_o": lambda g, s, large: metrics.distributional_overlap(g, s),
    "AUROC": lambda g, s, large: metrics.auroc(g, s),
    **{
        f"joint accuracy at {ratio:.0%}": partial(metrics.joint_accuracy_at, ratio=ratio)
        for ratio in RATIOS
    },
    "area under joint accuracy": metrics.joint_accuracy_area,
}
HEADLINE = (
    "s_d",
    "joint accuracy at 10%",
    "joint accuracy at 30%",
    "area under joint accuracy",
    "acc(M_S)",
)


def summarise(samples: Samples, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return name -> {value, low, high} for one variant.

    Args:
        samples: The variant's rows.
        seed: Seed of the resampling, so that `check` gets the same interval.
    """
    figures = {name: _with_interval(name, samples, seed) for name in STATISTICS}
    for name, columns in (
        ("deferral ratio", samples.deferred),
        ("joint accuracy at threshold", samples.answer_quality),
    ):
        interval = metrics.bootstrap_interval(
            _mean, columns, resamples=RESAMPLES, level=LEVEL, seed=seed
        )
        figures[name] = {"value": _mean(columns), "low": interval.low, "high": interval.high}
    return figures


def differences(ours: Samples, other: Samples, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return the headline figures of `ours` minus `other`, with paired intervals."""
    return {name: _difference(name, ours, other, seed) for name in HEADLINE}


def _mean(columns: Floats) -> float:
    return float(columns.mean())


def _over_seeds(statistic: Statistic) -> Callable[[Floats, Floats, Floats], float]:
    def mean(g: Floats, s: Floats, large: Floats) -> float:
        return float(np.mean([statistic(g[:, k], s[:, k], large[:, k]) for k in range(g.shape[1])]))

    return mean


def _with_interval(name: str, samples: Samples, seed: int) -> dict[str, float]:
    statistic = _over_seeds(STATISTICS[name])
    arrays = (samples.confidence, samples.small_quality, samples.large_quality)
    interval = metrics.bootstrap_interval(
        statistic, *arrays, resamples=_resamples(name), level=LEVEL, seed=seed
    )
    return {"value": statistic(*arrays), "low": interval.low, "high": interval.high}


def _difference(name: str, ours: Samples, other: Samples, seed: int) -> dict[str, float]:
    statistic = _over_seeds(STATISTICS[name])

    def gain(*arrays: Any) -> float:
        return statistic(*arrays[:3]) - statistic(*arrays[3:])

    arrays = [
        array
        for side in (ours, other)
        for array in (side.confidence, side.small_quality, side.large_quality)
    ]
    interval = metrics.bootstrap_interval(
        gain, *arrays, resamples=_resamples(name), level=LEVEL, seed=seed
    )
    return {"value": gain(*arrays), "low": interval.low, "high": interval.high}


def _resamples(name: str) -> int:
    return SLOW_RESAMPLES if name == "s_o" else RESAMPLES
