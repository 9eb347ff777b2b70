"""Compares candidates on the same inputs: figures with intervals, and differences with paired ones.

A bootstrap draw picks inputs and seeds with replacement, the same for every candidate. Drawing
inputs means giving each a weight, so that a candidate is sorted by confidence once and not once a
draw.
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
    """Return what the joint accuracy at a deferral ratio is called."""
    return f"joint accuracy at {ratio:.0%}"


FIGURES = (ACCURACY, "s_d", "s_o", "AUROC", *map(joint_name, RATIOS), AREA)
DRAWN = tuple(name for name in FIGURES if name != "s_o")  # whose two densities take too long


@dataclass(frozen=True)
class Candidate:
    """One way to be unsure, on one split.

    Attributes:
        uncertainty: float [k, n], a row a seed; the greater the less sure.
        right: bool [k, n].
        passes: Forward passes of M_S an input.
        is_probability: Whether 1 - uncertainty lies in [0, 1], as s_o needs it.
        is_logarithm: Whether exp(-uncertainty) does.
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
        """Return s_o of a seed; NaN where the confidence has no scale."""
        g = self.confidence(seed)
        if not self.is_probability and not self.is_logarithm:
            return float("nan")
        return metrics.distributional_overlap(
            np.exp(g) if self.is_logarithm else g, self.right[seed]
        )


def figures(candidate: Candidate, large: Floats | None) -> dict[str, float]:
    """Return every figure, the mean over the seeds.

    Args:
        candidate: Whose.
        large: 1 where M_L is right, [n]; without it only the figures of M_S alone.
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
    return alone if large is None else alone | _beside(g, right, large)


def _beside(g: Floats, right: Floats, large: Floats) -> dict[str, float]:
    return {
        "s_d": metrics.deferral_performance(g, right, large).s_d,
        **{joint_name(r): metrics.joint_accuracy_at(g, right, large, r) for r in RATIOS},
        AREA: metrics.joint_accuracy_area(g, right, large),
    }


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws that every candidate shares.

    Attributes:
        counts: How often each input was drawn, float64 [draws, n].
        seeds: Which seeds were drawn, int64 [draws, k].
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
    """Put a number above all others in the place of NaN: the most uncertain, and all tied."""
    return np.where(np.isnan(u), np.finfo(float).max, u)


def _weighted(u: Floats, right: Floats, large: Floats, counts: Floats) -> dict[str, Floats]:
    """Return the figures of one seed with weighted inputs: those of the metrics, draw by draw."""
    drawn = metrics.drawn_figures(-u, right, large, counts, RATIOS)
    return {
        ACCURACY: drawn.p_s,
        "s_d": drawn.s_d,
        "AUROC": drawn.auroc,
        **{joint_name(ratio): drawn.joint[:, i] for i, ratio in enumerate(RATIOS)},
        AREA: drawn.area,
    }


def interval(values: Floats) -> tuple[float, float]:
    """Return the percentile interval of a figure's draws; NaN where it was never defined."""
    found = metrics.percentile_interval(values, level=LEVEL)
    return found.low, found.high


def compare(
    candidates: Mapping[str, Candidate], large: Floats, control: str | Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return for each candidate its figures, and their difference to the control's.

    Args:
        candidates: By name, all with the same seeds and inputs.
        large: 1 where M_L is right, [n].
        control: The name of the one that the others are compared with, or of each one's own.

    Returns:
        name -> {"passes", "figures": {figure: {"value", "low", "high"}}, "minus_control": the
        same}; s_o has no interval.
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
        with np.errstate(invalid="ignore"):  # a draw in which M_L is as good as M_S has no s_d
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
