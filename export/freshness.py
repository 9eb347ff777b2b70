"""Had the inputs that choose a threshold a part in making the model? Then they are not fresh.

A guarantee holds for a model that was made without them. Inputs that fitted weights void it, and
are refused; inputs that decided when training stopped weaken it, and that is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime import contract
from export.errors import CalibrationError

TRAINING = "training"
"""Key of the metadata: data, fitted_on and chosen_on, as `train.models.Training` has them."""


def require_fresh(made_with: Mapping[str, Any], data: str, split: str) -> None:
    """Refuse to certify a threshold on inputs that fitted weights.

    Args:
        made_with: What the metadata say of the training, and of a deferral head.
        data: What the threshold is chosen on.
        split: Of the data.

    Raises:
        CalibrationError: They did.
    """
    for who, splits in _fitted(made_with, data):
        if split in splits:
            raise CalibrationError(
                f"expected a guarantee on inputs that {who} was not fitted on, got {split} of "
                f"{data} for both: take another --split, or other data"
            )


def remarks(made_with: Mapping[str, Any], data: str | None, split: str, *, certified: bool) -> str:
    """Return what to say of the inputs that a threshold was chosen on; empty where they are fresh.

    Args:
        made_with: What the metadata say of the training, and of a deferral head.
        data: What the threshold was chosen on, or None.
        split: Of the data.
        certified: Whether it comes with a guarantee.
    """
    if data is None:
        return ""
    for who, splits in _fitted(made_with, data):
        if split in splits:
            return (
                f"; {who} was fitted on the same inputs ({split} of {data}): expect another "
                "deferral ratio on fresh ones, and calibrate on such ones where there are any"
            )
    if certified and was_chosen_on(made_with, data, split):
        return (
            f"; {split} of {data} also decided when training stopped: for a guarantee to the "
            "letter take another --split, or other data"
        )
    return ""


def was_chosen_on(made_with: Mapping[str, Any], data: str, split: str) -> bool:
    """Return whether the inputs decided when training stopped."""
    training = _record(made_with, TRAINING)
    return _is_same(training, data) and split in training.get("chosen_on", ())


def _fitted(made_with: Mapping[str, Any], data: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return who was fitted on which splits of the data."""
    head, training = _record(made_with, contract.DEFERRAL_HEAD), _record(made_with, TRAINING)
    found: list[tuple[str, tuple[str, ...]]] = []
    if _is_same(head, data):
        found.append(("the deferral head", (str(head.get("split")),)))
    if _is_same(training, data):
        found.append(("M_S", tuple(training.get("fitted_on", ()))))
    return found


def _record(made_with: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    record = made_with.get(key)
    return record if isinstance(record, dict) else {}  # another toolkit's may be anything


def _is_same(record: Mapping[str, Any], data: str) -> bool:
    return "data" in record and Path(str(record["data"])).absolute() == Path(data).absolute()
