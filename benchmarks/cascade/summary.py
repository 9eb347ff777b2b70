"""Turns per-sample files into the figures of the table, with bootstrap intervals.

Every figure is the mean over seeds. An interval resamples the inputs (all seeds and variants of an
input together), so the interval of a difference is paired.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.cascade.samples import Floats, Samples
from edge_runtime import metrics

Statistic = Callable[[Floats, Floats, Floats], float]

RATIOS = (0.1, 0.3, 0.5)
RESAMPLES = 300
SLOW_RESAMPLES = 30  # s_o needs two kernel density estimates a resample
LEVEL = 0.95


def joint_name(ratio: float) -> str:
    """Return what the joint accuracy at a deferral ratio is called."""
    return f"joint accuracy at {ratio:.0%}"


STATISTICS: dict[str, Statistic] = {
    "acc(M_S)": lambda g, s, large: float(s.mean()),
    "acc(M_L)": lambda g, s, large: float(large.mean()),
    "s_d": lambda g, s, large: metrics.deferral_performance(g, s, large).s_d,
    "s_d_star": lambda g, s, large: metrics.deferral_performance(g, s, large).s_d_star,
    "s_o": lambda g, s, large: metrics.distributional_overlap(g, s),
    "AUROC": lambda g, s, large: metrics.auroc(g, s),
    **{joint_name(ratio): partial(metrics.joint_accuracy_at, ratio=ratio) for ratio in RATIOS},
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
    counts = _counts(samples, seed)
    drawn = _drawn(samples, counts)
    figures = {}
    for name in STATISTICS:
        interval = _slow_interval(name, samples, seed) if name not in drawn else None
        figures[name] = _figure(_value(name, samples), interval or _interval(drawn[name]))
    for name, columns in (
        ("deferral ratio", samples.deferred),
        ("joint accuracy at threshold", samples.answer_quality),
    ):
        figures[name] = _mean(columns, counts)
    return figures


def mean_figure(columns: Floats, *, seed: int = 0) -> dict[str, float]:
    """Return {value, low, high} of a mean over inputs and seeds, [n, k]."""
    counts = metrics.bootstrap_counts(len(columns), resamples=RESAMPLES, seed=seed)
    return _mean(columns, counts)


def _mean(columns: Floats, counts: Floats) -> dict[str, float]:
    means = counts @ columns.mean(axis=1) / len(columns)
    return _figure(float(columns.mean()), _interval(means))


def differences(ours: Samples, other: Samples, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return the headline figures of `ours` minus `other`, with paired intervals."""
    counts = _counts(ours, seed)
    drawn, base = _drawn(ours, counts), _drawn(other, counts)
    return {
        name: _figure(_value(name, ours) - _value(name, other), _interval(drawn[name] - base[name]))
        for name in HEADLINE
    }


def _counts(samples: Samples, seed: int) -> Floats:
    return metrics.bootstrap_counts(len(samples.ids), resamples=RESAMPLES, seed=seed)


def _value(name: str, samples: Samples) -> float:
    return _over_seeds(STATISTICS[name])(*_arrays(samples))


def _arrays(samples: Samples) -> tuple[Floats, Floats, Floats]:
    return samples.confidence, samples.small_quality, samples.large_quality


def _over_seeds(statistic: Statistic) -> Callable[[Floats, Floats, Floats], float]:
    def mean(g: Floats, s: Floats, large: Floats) -> float:
        return float(np.mean([statistic(g[:, k], s[:, k], large[:, k]) for k in range(g.shape[1])]))

    return mean


def _drawn(samples: Samples, counts: Floats) -> dict[str, Floats]:
    """Return the figures of every draw, the mean over the seeds: [draws] each."""
    columns = (array.T for array in _arrays(samples))
    seeds = [_drawn_of(g, small, large, counts) for g, small, large in zip(*columns, strict=True)]
    return {name: np.mean([seed[name] for seed in seeds], axis=0) for name in seeds[0]}


def _drawn_of(g: Floats, small: Floats, large: Floats, counts: Floats) -> dict[str, Floats]:
    drawn = metrics.drawn_figures(g, small, large, counts, RATIOS)
    best = metrics.drawn_figures(small - large, small, large, counts)
    return {
        "acc(M_S)": drawn.p_s,
        "acc(M_L)": drawn.p_l,
        "s_d": drawn.s_d,
        "s_d_star": drawn.s_d_star(best),
        "AUROC": drawn.auroc,
        **{joint_name(ratio): drawn.joint[:, i] for i, ratio in enumerate(RATIOS)},
        "area under joint accuracy": drawn.area,
    }


def _slow_interval(name: str, samples: Samples, seed: int) -> metrics.Interval:
    return metrics.bootstrap_interval(
        _over_seeds(STATISTICS[name]),
        *_arrays(samples),
        resamples=SLOW_RESAMPLES,
        level=LEVEL,
        seed=seed,
    )


def _interval(drawn: Floats) -> metrics.Interval:
    return metrics.percentile_interval(drawn, level=LEVEL)


def _figure(value: float, interval: metrics.Interval) -> dict[str, float]:
    return {"value": value, "low": interval.low, "high": interval.high}
