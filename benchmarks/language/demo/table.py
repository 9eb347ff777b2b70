"""The demo's table for language models, and the check of the comparison that it is taken from.

The table has the untuned model, the control and the tuned model with the paper's confidence. Its
rows come from the per-sample file of the comparison of all rivals.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cascade.report import require_following
from benchmarks.cascade.samples import Samples
from benchmarks.errors import CheckError
from edge_runtime import contract
from edge_runtime.errors import GatekeeperError
from export.calibration.sample import threshold_for_deferral_ratio
from train.comparison.figures import Candidate, compare, joint_name
from train.comparison.samples import Samples as AllSamples
from train.comparison.samples import read_samples
from train.language.gathering import row_name
from train.language.results import (
    RESULTS_FILE,
    SAMPLES_FILE,
    TABLE_FILE,
    findings,
    follows,
    report,
)
from train.language.rivals import CONTROL, UNTUNED

TUNED = "tuned"
KIND = contract.NEG_ENTROPY

_WORDS = ("findings", "seeds", "controls", "not_meaningful", "chosen")


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


def check_comparison(folder: Path) -> int:
    """Recompute every figure of the comparison of all rivals; return their number.

    Raises:
        CheckError: A file is missing, or a figure differs.
    """
    try:
        content: dict[str, Any] = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        fresh = follows(read_samples(folder / SAMPLES_FILE), content["deferral"])
        # Sentences round: they are compared with the printed figures, these with the samples.
        fresh["findings"] = findings(content, joint_name(content["deferral"]))
    except (OSError, ValueError, KeyError, GatekeeperError) as error:
        raise CheckError(f"{folder}: {error}") from None
    return require_following(
        folder, fresh, content, words=_WORDS, page=(TABLE_FILE, report(content))
    )
