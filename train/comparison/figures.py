"""Compares candidates on the same inputs: figures and differences, with bootstrap intervals.

A bootstrap draw picks inputs and seeds with replacement, the same for every candidate, so that the
intervals of differences are paired. Drawn inputs are weights: a candidate is sorted by confidence
once, not once per draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import metrics

Floats = npt.NDArray[np.float64]
RATIOS = (0.1, 0.3, 0.5)
DRAWS = 300
LEVEL = 0.95
ACCURACY = "acc(M_S)"
AREA = "area under joint accuracy"


def joint_name(ratio: float) -> str:
    """Return the name of the joint accuracy at a deferral ratio."""
    return f"joint accuracy at {ratio:.0%}"


FIGURES = (ACCURACY, "s_d", "s_o", "AUROC", *map(joint_name, RATIOS), AREA)
DRAWN = tuple(name for name in FIGURES if name != "s_o")  # its two densities take too long


@dataclass(frozen=True)
class Candidate:
    """A model with a confidence, on one split, for several training seeds.

    Attributes:
        uncertainty: float [k, n], one row per seed; a greater value is less sure.
        right: bool [k, n].
        passes: Forward passes of M_S per input.
        is_probability: Whether 1 - uncertainty lies in [0, 1], as s_o needs it.
        is_logarithm: Whether exp(-uncertainty) lies in [0, 1].
    """

    uncertainty: npt.NDArray[np.float32]
    right: npt.NDArray[np.bool_]
    passes: float
    is_probability: bool
    is_logarithm: bool = False

    def confidence(self, seed: int) -> Floats:
        """Return the confidence of a seed in the order of the uncertainty, float64 [n]."""
        doubt = self.uncertainty[seed].astype(float)
        return -doubt if self.is_logarithm else 1.0 - doubt

    def overlap(self, seed: int) -> float:
        """Return s_o of a seed; NaN for a confidence without a scale."""
        g = self.confidence(seed)
        if not self.is_probability and not self.is_logarithm:
            return float("nan")
        return metrics.distributional_overlap(
            np.exp(g) if self.is_logarithm else g, self.right[seed]
        )


def figures(candidate: Candidate, large: Floats | None) -> dict[str, float]:
    """Return every figure as the mean over the seeds.

    Args:
        candidate: The model and its confidence.
        large: 1 where M_L is right, [n]; None gives only the figures of M_S alone.
    """
    rows = [_figures(candidate, seed, large) for seed in range(len(candidate.right))]
    return {
        name: float(np.mean([row[name] for row in rows])) for name in FIGURES if name in rows[0]
    }


def _figures(candidate: Candidate, seed: int, large: Floats | None) -> dict[str, float]:
    g, right = candidate.confidence(seed), candidate.right[seed].astype(float)
    alone = {
        ACCURACY: float(right.mean()),
        "s_o": candidate.overlap(seed),
        "AUROC": metrics.auroc(g, right),
    }
    if large is None:
        return alone
    return alone | {
        "s_d": metrics.deferral_performance(g, right, large).s_d,
        **{joint_name(r): metrics.joint_accuracy_at(g, right, large, r) for r in RATIOS},
        AREA: metrics.joint_accuracy_area(g, right, large),
    }


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws that every candidate shares.

    Attributes:
        counts: Number of times that each input was drawn, float64 [draws, n].
        seeds: The drawn seeds, int64 [draws, k].
    """

    counts: Floats
    seeds: npt.NDArray[np.int64]

    @classmethod
    def make(cls, inputs: int, seeds: int, *, seed: int = 0, draws: int = DRAWS) -> Draws:
        """Draw with replacement; the same seed gives the same draws."""
        random = np.random.default_rng(seed)
        counts = random.multinomial(inputs, np.full(inputs, 1 / inputs), draws)
        return cls(counts.astype(float), random.integers(0, seeds, (draws, seeds)))

    def of(self, candidate: Candidate, large: Floats) -> dict[str, Floats]:
        """Return each figure of every draw, [draws]."""
        runs = [
            _weighted(_sortable(u.astype(float)), right.astype(float), large, self.counts)
            for u, right in zip(candidate.uncertainty, candidate.right, strict=True)
        ]
        picked = {}
        for name in DRAWN:
            table = np.stack([run[name] for run in runs], axis=1)
            picked[name] = np.take_along_axis(table, self.seeds, axis=1).mean(axis=1)
        return picked


def _sortable(u: Floats) -> Floats:
    """Replace NaN by the greatest number: the most uncertain, and all tied."""
    return np.where(np.isnan(u), np.finfo(float).max, u)


def _weighted(u: Floats, right: Floats, large: Floats, counts: Floats) -> dict[str, Floats]:
    """Return the figures of one seed, draw by draw, from weighted inputs."""
    drawn = metrics.drawn_figures(-u, right, large, counts, RATIOS)
    return {
        ACCURACY: drawn.p_s,
        "s_d": drawn.s_d,
        "AUROC": drawn.auroc,
        **{joint_name(ratio): drawn.joint[:, i] for i, ratio in enumerate(RATIOS)},
        AREA: drawn.area,
    }


def interval(values: Floats) -> tuple[float, float]:
    """Return the percentile interval of a figure's draws; NaN if it was never defined."""
    found = metrics.percentile_interval(values, level=LEVEL)
    return found.low, found.high


def compare(
    candidates: Mapping[str, Candidate], large: Floats, control: str | Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return the figures of each candidate, and their difference from the control's.

    Args:
        candidates: By name, all with the same seeds and inputs.
        large: 1 where M_L is right, [n].
        control: Name of the control, or candidate -> name of its own control.

    Returns:
        name -> {"passes", "figures": {figure: {"value", "low", "high"}}, "minus_control": {...}};
        s_o has no interval.
    """
    controls = dict.fromkeys(candidates, control) if isinstance(control, str) else control
    first = next(iter(candidates.values()))
    draws = Draws.make(first.right.shape[1], first.right.shape[0])
    values = {name: figures(candidate, large) for name, candidate in candidates.items()}
    drawn = {name: draws.of(candidate, large) for name, candidate in candidates.items()}
    result = {}
    for name, candidate in candidates.items():
        base = controls[name]
        gains = {f: values[name][f] - values[base][f] for f in FIGURES}
        with np.errstate(invalid="ignore"):  # in a draw with M_L as good as M_S, s_d is undefined
            drawn_gains = {f: drawn[name][f] - drawn[base][f] for f in DRAWN}
        result[name] = {
            "passes": candidate.passes,
            "figures": _with_intervals(values[name], drawn[name]),
            "minus_control": _with_intervals(gains, drawn_gains),
        }
    return result


def _with_intervals(values: Mapping[str, float], drawn: Mapping[str, Floats]) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        low, high = interval(drawn[name]) if name in drawn else (float("nan"), float("nan"))
        found[name] = {"value": value, "low": low, "high": high}
    return found
