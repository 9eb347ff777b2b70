"""The demo's table for language models: untuned, control and tuned, by the paper's confidence.

Its rows come from the per-sample file of the comparison of all rivals.
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
from train.language.results import (
    RESULTS_FILE,
    SAMPLES_FILE,
    TABLE_FILE,
    answer_figures,
    derive_results,
    findings,
    report,
    row_name,
)
from train.language.rivals import CONTROL, UNTUNED

# MERGEDOC benchmarks/language/comparison.py: 'Recomputes the figures of a comparison of language models from its per-sample file.'

TUNED = "tuned"
KIND = contract.NEG_ENTROPY

_WORDS = ("findings", "seeds", "controls", "not_meaningful", "chosen")


def best_tuned(samples: AllSamples, deferral: float) -> str:
    """Return which tuned model is best on validation, by the joint accuracy at a deferral ratio."""
    names = [row.partition(" + ")[0] for row in samples.candidates["validation"]]
    tuned = dict.fromkeys(name for name in names if name.startswith("gatekeeper-"))
    rows = {name: samples.candidates["validation"][row_name(name, KIND)] for name in tuned}
    rows[CONTROL] = samples.candidates["validation"][row_name(CONTROL, KIND)]
    compared = compare(rows, samples.large["validation"].astype(float), CONTROL)
    joint = joint_name(deferral)
    return max(tuned, key=lambda name: compared[name]["figures"][joint]["value"])


def variants(samples: AllSamples, deferral: float) -> tuple[dict[str, Samples], str]:
    """Return the rows of untuned, control and tuned on the test set, and who the last is."""
    chosen = best_tuned(samples, deferral)
    named = {UNTUNED: UNTUNED, CONTROL: CONTROL, TUNED: chosen}
    return {name: rows_of(samples, model, KIND, deferral) for name, model in named.items()}, chosen


def tokens_per_s(samples: AllSamples, model: str) -> float:
    """Return the generated tokens a second on the test set, the mean over the seeds."""
    return answer_figures(samples, "test", model)["tokens/s"]


def rows_of(samples: AllSamples, model: str, kind: str, deferral: float) -> Samples:
    """Return what a pair gives the user on the test set, with a threshold from validation.

    Args:
        samples: Of all rivals.
        model: Whose answers.
        kind: The confidence.
        deferral: The deferral ratio that the threshold is chosen for.
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
    # Not confident is not the same as deferred: NaN has to defer.
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
    """Return the confidences [n, k]; of the negative entropy as 1 + g / log V."""
    return np.stack([candidate.confidence(k) for k in range(len(candidate.right))], axis=1)


def is_language(folder: Path) -> bool:
    """Return whether a result folder is one of language models."""
    return (folder / RESULTS_FILE).is_file()


def check(folder: Path) -> int:
    """Recompute every printed figure; return how many were compared.

    Raises:
        CheckError: A file is missing, or a figure differs.
    """
    try:
        content: dict[str, Any] = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        fresh = derive_results(read_samples(folder / SAMPLES_FILE), content["deferral"])
        # A sentence rounds: it is held to the printed figures, and these to the samples.
        fresh["findings"] = findings(content, joint_name(content["deferral"]))
    except (OSError, ValueError, KeyError, GatekeeperError) as error:
        raise CheckError(f"{folder}: {error}") from None
    return require_following(
        folder, fresh, content, words=_WORDS, page=(TABLE_FILE, report(content))
    )
