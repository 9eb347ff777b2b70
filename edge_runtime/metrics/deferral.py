"""Deferral performance s_d and the joint accuracy a user gets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.metrics.arrays import Floats, column, group_ends, least_confident_first

_CLOSE = 1e-12


@dataclass(frozen=True)
class DeferralPerformance:
    """How much of the possible gain a deferral order reaches.

    Attributes:
        s_d: Paper, eq. 10 over eq. 11: area between real and random deferral over the area between
            ideal and random; not clipped (above 1 where M_L errs and M_S is right), NaN where
            undefined.
        s_d_star: The same numerator over the best order of these samples; in [-1, 1].
        status: `ok`, or why s_d is undefined: `p_s=0`, `p_s=1`, `p_l=p_s`, `p_l<p_s`.
        p_s: Mean quality of M_S.
        p_l: Mean quality of M_L.
        numerator: Area between real and random, eq. 10.
        denominator: Area between ideal and random, eq. 11: p_s (p_l - p_s) / 2.
        denominator_star: Area between the best order and random.
        curve: Real deferral: (ratios, joint qualities); tied confidences are one straight segment.
        ideal: The ideal of eq. 11: (ratios, joint qualities).
    """

    s_d: float
    s_d_star: float
    status: str
    p_s: float
    p_l: float
    numerator: float
    denominator: float
    denominator_star: float
    curve: tuple[Floats, Floats]
    ideal: tuple[Floats, Floats]


def deferral_performance(
    confidence: npt.ArrayLike, small_quality: npt.ArrayLike, large_quality: npt.ArrayLike
) -> DeferralPerformance:
    """Return s_d (paper, eq. 10 and 11) with its curves.

    Args:
        confidence: g [n]; NaN is the least confident, all NaNs tied.
        small_quality: q_S [n].
        large_quality: q_L [n], or one number for all.

    Raises:
        InputError: Shapes differ or are empty.
    """
    g, small, large = _columns(confidence, small_quality, large_quality)
    p_s, p_l = float(small.mean()), float(large.mean())
    curve = _joint_curve(g, small, large)
    random_area = (p_s + p_l) / 2
    numerator = float(np.trapezoid(curve[1], curve[0])) - random_area
    denominator = p_s * (p_l - p_s) / 2
    best = _joint_curve(small - large, small, large)
    denominator_star = float(np.trapezoid(best[1], best[0])) - random_area
    status = _status(p_s, p_l)
    return DeferralPerformance(
        s_d=numerator / denominator if status == "ok" else float("nan"),
        s_d_star=numerator / denominator_star if denominator_star > _CLOSE else float("nan"),
        status=status,
        p_s=p_s,
        p_l=p_l,
        numerator=numerator,
        denominator=denominator,
        denominator_star=denominator_star,
        curve=curve,
        ideal=_ideal_curve(p_s, p_l),
    )


def _columns(g: npt.ArrayLike, small: npt.ArrayLike, large: npt.ArrayLike) -> tuple[Floats, ...]:
    confidence = column("confidence", g)
    size = confidence.size
    return (
        confidence,
        column("small_quality", small, size),
        column("large_quality", large, size),
    )


def _status(p_s: float, p_l: float) -> str:
    if p_s >= 1.0:
        return "p_s=1"
    if p_s <= 0.0:
        return "p_s=0"
    if abs(p_l - p_s) <= _CLOSE:
        return "p_l=p_s"
    return "ok" if p_l > p_s else "p_l<p_s"


def _joint_curve(g: Floats, small: Floats, large: Floats) -> tuple[Floats, Floats]:
    """Return deferral ratios and joint qualities at the ends of the tied groups, from 0 to 1."""
    order, ordered = least_confident_first(g)
    ends = group_ends(ordered)
    gained = np.cumsum((large - small)[order])
    ratios = np.concatenate(([0.0], ends / g.size))
    joint = small.mean() + np.concatenate(([0.0], gained[ends - 1] / g.size))
    return ratios, joint


def _ideal_curve(p_s: float, p_l: float) -> tuple[Floats, Floats]:
    """Eq. 11: the wrong are deferred first, and M_L's quality p_l is reached at ratio 1 - p_s."""
    return np.array([0.0, 1.0 - p_s, 1.0]), np.array([p_s, p_l, p_l])


def joint_accuracy_at(
    confidence: npt.ArrayLike,
    small_quality: npt.ArrayLike,
    large_quality: npt.ArrayLike,
    ratio: float,
) -> float:
    """Return the joint accuracy when the least confident share `ratio` in [0, 1] is deferred.

    Inside a tied group this is the expectation over a random order of the group.

    Raises:
        InputError: Shapes differ or are empty.
        ValueError: `ratio` is outside [0, 1].
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"expected a deferral ratio in [0, 1], got {ratio}")
    ratios, joint = _joint_curve(*_columns(confidence, small_quality, large_quality))
    return float(np.interp(ratio, ratios, joint))


def joint_accuracy_area(
    confidence: npt.ArrayLike, small_quality: npt.ArrayLike, large_quality: npt.ArrayLike
) -> float:
    """Return the area under the joint accuracy over the deferral ratio from 0 to 1."""
    ratios, joint = _joint_curve(*_columns(confidence, small_quality, large_quality))
    return float(np.trapezoid(joint, ratios))


def joint_accuracy_at_threshold(
    confidence: npt.ArrayLike,
    small_quality: npt.ArrayLike,
    large_quality: npt.ArrayLike,
    threshold: float,
) -> tuple[float, float]:
    """Return (joint accuracy, deferral ratio) where every g that is not >= threshold defers."""
    g, small, large = _columns(confidence, small_quality, large_quality)
    kept = g >= threshold
    return float(np.where(kept, small, large).mean()), float(1.0 - kept.mean())
