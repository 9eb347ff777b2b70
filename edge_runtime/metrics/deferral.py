"""Deferral performance s_d, and the joint accuracy that the user gets.

s_d looks only at the order of the confidences relative to its own p_s, so it can rise while the
joint accuracy at a fixed deferral ratio falls: report both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.metrics.arrays import Floats, area, cascade, least_confident_first, share

Curve = tuple[Floats, Floats]
"""Deferral ratios from 0 to 1 and the joint qualities there; linear in between."""

CLOSE = 1e-12
"""Means of n <= 1e9 right-or-wrong flags differ by more than this or are equal."""


@dataclass(frozen=True, eq=False)
class DeferralPerformance:
    """The share of the possible gain that a deferral order reaches, with the curves to plot.

    Attributes:
        s_d: Paper, eq. 10 over eq. 11: area between real and random deferral over the area between
            ideal and random; not clipped (above 1 where M_L errs and M_S is right), NaN where
            undefined.
        s_d_star: `numerator` over `denominator_star`; in [-1, 1], NaN where no order gains
            anything.
        status: `ok`, or why s_d is undefined: `p_s=0`, `p_s=1`, `p_l=p_s`, `p_l<p_s` (the first
            that holds).
        p_s: Mean quality of M_S.
        p_l: Mean quality of M_L.
        numerator: Area between real and random, eq. 10.
        denominator: Area between ideal and random, eq. 11: p_s (p_l - p_s) / 2.
        denominator_star: Area between the best order of these samples and random.
        curve: Real deferral; tied confidences are one straight segment.
        ideal: The ideal of eq. 11: p_l is reached at ratio 1 - p_s.
        random: The two ends, (0, p_s) and (1, p_l).
    """

    s_d: float
    s_d_star: float
    status: str
    p_s: float
    p_l: float
    numerator: float
    denominator: float
    denominator_star: float
    curve: Curve
    ideal: Curve
    random: Curve

    @property
    def ratios(self) -> Floats:
        """Deferral ratios of the real curve, from 0 to 1."""
        return self.curve[0]

    @property
    def joint(self) -> Floats:
        """Joint qualities of the real curve, from p_s to p_l."""
        return self.curve[1]


def deferral_performance(
    confidence: npt.ArrayLike, small_quality: npt.ArrayLike, large_quality: npt.ArrayLike
) -> DeferralPerformance:
    """Return s_d (paper, eq. 10 and 11) with its curves.

    Args:
        confidence: g [n]; NaN is the least confident, all NaNs tied.
        small_quality: q_S [n] in [0, 1].
        large_quality: q_L [n] in [0, 1], or one number for all.

    Raises:
        InputError: Shapes differ or are empty, or a quality is outside [0, 1].

    Example:
        >>> deferral_performance([0.9, 0.6, 0.4, 0.2], [1, 0, 1, 0], 1.0).s_d
        0.5
    """
    g, small, large = cascade(confidence, small_quality, large_quality)
    p_s, p_l = float(small.mean()), float(large.mean())
    status = _status(p_s, p_l)
    curve = _joint_curve(g, small, large)
    best = _joint_curve(small - large, small, large)
    random_area = (p_s + p_l) / 2
    numerator = area(*curve) - random_area
    denominator = p_s * (p_l - p_s) / 2
    denominator_star = area(*best) - random_area
    return DeferralPerformance(
        s_d=numerator / denominator if status == "ok" else float("nan"),
        s_d_star=numerator / denominator_star if denominator_star > CLOSE else float("nan"),
        status=status,
        p_s=p_s,
        p_l=p_l,
        numerator=numerator,
        denominator=denominator,
        denominator_star=denominator_star,
        curve=curve,
        ideal=(np.array([0.0, 1.0 - p_s, 1.0]), np.array([p_s, p_l, p_l])),
        random=(np.array([0.0, 1.0]), np.array([p_s, p_l])),
    )


def joint_accuracy_at(
    confidence: npt.ArrayLike,
    small_quality: npt.ArrayLike,
    large_quality: npt.ArrayLike,
    ratio: float,
) -> float:
    """Return the joint accuracy if the least confident share `ratio`, in [0, 1], is deferred.

    Inside a tied group it is the expectation over a random order of the group. The other arguments
    and the errors are those of `deferral_performance`.
    """
    share("ratio", ratio)
    ratios, joint = _joint_curve(*cascade(confidence, small_quality, large_quality))
    return float(np.interp(ratio, ratios, joint))


def joint_accuracy_area(
    confidence: npt.ArrayLike, small_quality: npt.ArrayLike, large_quality: npt.ArrayLike
) -> float:
    """Return the exact area under the joint accuracy over the deferral ratio from 0 to 1.

    Arguments and errors are those of `joint_accuracy_at` without the ratio. Random deferral
    reaches (p_s + p_l) / 2.
    """
    return area(*_joint_curve(*cascade(confidence, small_quality, large_quality)))


def joint_accuracy_at_threshold(
    confidence: npt.ArrayLike,
    small_quality: npt.ArrayLike,
    large_quality: npt.ArrayLike,
    threshold: float,
) -> tuple[float, float]:
    """Return (joint accuracy, deferral ratio) of a gate with this threshold.

    Every sample whose confidence is not >= threshold defers, so NaN always does. For the decisions
    of an exported gate, pass its float32 confidences and its float32 threshold.

    The other arguments and the errors are those of `joint_accuracy_at`.
    """
    g, small, large = cascade(confidence, small_quality, large_quality)
    deferred = ~(g >= threshold)
    return float(np.where(deferred, large, small).mean()), float(deferred.mean())


def _status(p_s: float, p_l: float) -> str:
    if p_s >= 1.0:
        return "p_s=1"
    if p_s <= 0.0:
        return "p_s=0"
    if abs(p_l - p_s) <= CLOSE:
        return "p_l=p_s"
    return "ok" if p_l > p_s else "p_l<p_s"


def _joint_curve(g: Floats, small: Floats, large: Floats) -> Curve:
    """Return deferral ratios and joint qualities at the ends of the tied groups, from 0 to 1."""
    order, ends = least_confident_first(g)
    gained = np.cumsum((large - small)[order])[ends - 1]
    ratios = np.concatenate(([0.0], ends / g.size))
    return ratios, small.mean() + np.concatenate(([0.0], gained / g.size))
