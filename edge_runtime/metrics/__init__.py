"""Metrics of deferral methods; importing them loads numpy alone.

Letters: n samples, C classes, V vocabulary size, T tokens; g confidence (higher is surer), q_S and
q_L the qualities of the small and the large model (1 right, 0 wrong, or any score in [0, 1]).
"""

from edge_runtime.metrics.bootstrap import (
    Drawn,
    Interval,
    bootstrap_counts,
    bootstrap_interval,
    drawn_figures,
    percentile_interval,
)
from edge_runtime.metrics.confidence import (
    band_limits,
    in_band,
    max_softmax,
    neg_entropy,
    probability_of,
    second_look,
    unit_neg_entropy,
)
from edge_runtime.metrics.deferral import (
    DeferralPerformance,
    deferral_performance,
    joint_accuracy_area,
    joint_accuracy_at,
    joint_accuracy_at_threshold,
)
from edge_runtime.metrics.separation import auroc, distributional_overlap, pearson
from edge_runtime.metrics.sequences import (
    SEQUENCE_KINDS,
    sequence_confidence,
    unit_sequence_confidence,
)

__all__ = [
    "SEQUENCE_KINDS",
    "DeferralPerformance",
    "Drawn",
    "Interval",
    "auroc",
    "band_limits",
    "bootstrap_counts",
    "bootstrap_interval",
    "deferral_performance",
    "distributional_overlap",
    "drawn_figures",
    "in_band",
    "joint_accuracy_area",
    "joint_accuracy_at",
    "joint_accuracy_at_threshold",
    "max_softmax",
    "neg_entropy",
    "pearson",
    "percentile_interval",
    "probability_of",
    "second_look",
    "sequence_confidence",
    "unit_neg_entropy",
    "unit_sequence_confidence",
]
