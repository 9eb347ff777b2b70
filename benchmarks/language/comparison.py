"""Recomputes the figures of a comparison of language models from its per-sample file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.comparisons import require_following
from benchmarks.errors import CheckError
from edge_runtime.errors import GatekeeperError
from train.comparison import joint_name
from train.language.results import (
    RESULTS_FILE,
    SAMPLES_FILE,
    TABLE_FILE,
    findings,
    follows,
    report,
)
from train.samples import read_samples

_WORDS = ("findings", "seeds", "controls", "not_meaningful", "chosen")


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
        fresh = follows(read_samples(folder / SAMPLES_FILE), content["deferral"])
        # A sentence rounds: it is held to the printed figures, and these to the samples.
        fresh["findings"] = findings(content, joint_name(content["deferral"]))
    except (OSError, ValueError, KeyError, GatekeeperError) as error:
        raise CheckError(f"{folder}: {error}") from None
    return require_following(
        folder, fresh, content, words=_WORDS, page=(TABLE_FILE, report(content))
    )
