"""Figures of a result folder's tables, computed from its per-sample file, with intervals.

Every figure is the mean over seeds. An interval resamples the inputs, with all seeds and variants
of an input together, so that the interval of a difference is paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.cascade.samples import Floats, Samples
from benchmarks.timing import percentiles_ms
from edge_runtime import metrics
from train.comparison.figures import ACCURACY, AREA, LEVEL, RATIOS, joint_name

Statistic = Callable[[Floats, Floats, Floats], float]

RESAMPLES = 300
SLOW_RESAMPLES = 30  # s_o needs two kernel density estimates per resample
TUNED = "tuned"
"""The variant that the others are compared with."""
STATISTICS: dict[str, Statistic] = {
    ACCURACY: lambda g, s, large: float(s.mean()),
    "acc(M_L)": lambda g, s, large: float(large.mean()),
    "s_d": lambda g, s, large: metrics.deferral_performance(g, s, large).s_d,
    "s_d_star": lambda g, s, large: metrics.deferral_performance(g, s, large).s_d_star,
    "s_o": lambda g, s, large: metrics.distributional_overlap(g, s),
    "AUROC": lambda g, s, large: metrics.auroc(g, s),
    **{joint_name(ratio): partial(metrics.joint_accuracy_at, ratio=ratio) for ratio in RATIOS},
    AREA: metrics.joint_accuracy_area,
}
HEADLINE = ("s_d", joint_name(0.1), joint_name(0.3), AREA, ACCURACY)


def figures(variants: Mapping[str, Samples]) -> dict[str, Any]:
    """Return every figure that is printed, as `results.json` holds it.

    Args:
        variants: Samples of the same inputs by variant; one is `TUNED`.
    """
    counts = _counts(len(variants[TUNED].ids))
    drawn = {name: _drawn(samples, counts) for name, samples in variants.items()}
    others = [name for name in variants if name != TUNED]
    return {
        "variants": {
            name: {"figures": _figures(samples, drawn[name], counts), **_latency(samples)}
            for name, samples in variants.items()
        },
        "tuned_minus": {
            base: {
                name: _figure(
                    _value(name, variants[TUNED]) - _value(name, variants[base]),
                    drawn[TUNED][name] - drawn[base][name],
                )
                for name in HEADLINE
            }
            for base in others
        },
    }


def mean_figure(columns: Floats) -> dict[str, float]:
    """Return {value, low, high} of a mean over inputs and seeds, [n, k]."""
    return _mean(columns, _counts(len(columns)))


def _figures(
    samples: Samples, drawn: Mapping[str, Floats], counts: Floats
) -> dict[str, dict[str, float]]:
    found = {}
    for name in STATISTICS:
        value = _value(name, samples)
        found[name] = _figure(value, drawn[name]) if name in drawn else _slow(name, value, samples)
    found["deferral ratio"] = _mean(samples.deferred, counts)
    found["joint accuracy at threshold"] = _mean(samples.answer_quality, counts)
    return found


def _latency(samples: Samples) -> dict[str, dict[str, dict[str, float]]]:
    if np.isnan(samples.total_ms).all():
        return {}  # no call was timed
    deferred = samples.deferred > 0
    ms = samples.total_ms
    calls = {"edge": ms[~deferred], "deferred": ms[deferred], "all": ms}
    return {
        "latency": {
            name: {**percentiles_ms(times / 1e3), "mean_ms": _mean_of(times)}
            for name, times in calls.items()
        }
    }


def _mean_of(times: Floats) -> float:
    timed = times[~np.isnan(times)]
    return float(timed.mean()) if timed.size else float("nan")


def _counts(inputs: int) -> Floats:
    # One seed for all, so that `check` draws the same again.
    return metrics.bootstrap_counts(inputs, resamples=RESAMPLES, seed=0)


def _mean(columns: Floats, counts: Floats) -> dict[str, float]:
    return _figure(float(columns.mean()), counts @ columns.mean(axis=1) / len(columns))


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
        ACCURACY: drawn.p_s,
        "acc(M_L)": drawn.p_l,
        "s_d": drawn.s_d,
        "s_d_star": drawn.s_d_star(best),
        "AUROC": drawn.auroc,
        **{joint_name(ratio): drawn.joint[:, i] for i, ratio in enumerate(RATIOS)},
        AREA: drawn.area,
    }


def _slow(name: str, value: float, samples: Samples) -> dict[str, float]:
    interval = metrics.bootstrap_interval(
        _over_seeds(STATISTICS[name]),
        *_arrays(samples),
        resamples=SLOW_RESAMPLES,
        level=LEVEL,
        seed=0,
    )
    return {"value": value, "low": interval.low, "high": interval.high}


def _figure(value: float, drawn: Floats) -> dict[str, float]:
    interval = metrics.percentile_interval(drawn, level=LEVEL)
    return {"value": value, "low": interval.low, "high": interval.high}
