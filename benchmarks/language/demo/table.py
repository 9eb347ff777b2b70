"""The rows of the demo's table for language models.

The table has the untuned model, the control and the tuned model with the paper's confidence. Its
rows come from the per-sample file of the comparison of all rivals.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cascade.samples import Samples
from edge_runtime import contract
from export.calibration.sample import threshold_for_deferral_ratio
from train.comparison.figures import Candidate, compare, joint_name
from train.comparison.samples import Samples as AllSamples
from train.language.results import row_name
from train.language.rivals import CONTROL, UNTUNED

TUNED = "tuned"
KIND = contract.NEG_ENTROPY


def best_tuned(samples: AllSamples, deferral: float) -> str:
    """Return the tuned model with the best joint accuracy on validation at a deferral ratio."""
    names = [row.partition(" + ")[0] for row in samples.candidates["validation"]]
    tuned = dict.fromkeys(name for name in names if name.startswith("gatekeeper-"))
    rows = {name: samples.candidates["validation"][row_name(name, KIND)] for name in tuned}
    rows[CONTROL] = samples.candidates["validation"][row_name(CONTROL, KIND)]
    compared = compare(rows, samples.large["validation"].astype(float), CONTROL)
    joint = joint_name(deferral)
    return max(tuned, key=lambda name: compared[name]["figures"][joint]["value"])


def variants(samples: AllSamples, deferral: float) -> tuple[dict[str, Samples], str]:
    """Return the test rows of untuned, control and tuned, and the name of the tuned model."""
    best = best_tuned(samples, deferral)
    models = {UNTUNED: UNTUNED, CONTROL: CONTROL, TUNED: best}
    return {name: test_rows(samples, model, KIND, deferral) for name, model in models.items()}, best


def test_rows(samples: AllSamples, model: str, kind: str, deferral: float) -> Samples:
    """Return the test rows of a cascade in PyTorch, with a threshold chosen on validation.

    Args:
        samples: Samples of all rivals.
        model: Name of M_S's checkpoint.
        kind: Kind of its confidence.
        deferral: Deferral ratio that the threshold is chosen for.
    """
    name = row_name(model, kind)
    test, validation = (samples.candidates[split][name] for split in ("test", "validation"))
    confidence = _confidence(test)
    right = test.right.T.astype(float)
    large = np.repeat(samples.large["test"].astype(float)[:, None], right.shape[1], axis=1)
    thresholds = [
        threshold_for_deferral_ratio(column.astype(np.float32), deferral)
        for column in _confidence(validation).T
    ]
    # Negated, because a comparison with NaN is false, and NaN has to defer.
    deferred = ~(confidence.astype(np.float32) >= np.array(thresholds))
    return Samples(
        ids=tuple(samples.ids["test"].tolist()),
        seeds=samples.seeds,
        confidence=confidence,
        small_quality=right,
        large_quality=large,
        deferred=deferred.astype(float),
        answer_quality=np.where(deferred, large, right),
        source=np.where(deferred, "cloud", "edge"),
        total_ms=np.full(right.shape, np.nan),
    )


def _confidence(candidate: Candidate) -> Any:
    """Return the confidences [n, k], the negative entropy as 1 + g / log V."""
    return np.stack([candidate.confidence(k) for k in range(len(candidate.right))], axis=1)
