"""The data that an export calibrates and verifies with: their labels, and whether they are fresh.

A guarantee holds for a model that was made without the inputs that choose its threshold. Inputs
that fitted weights void it and are refused. Inputs that decided when training stopped weaken it,
and the export reports that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime import contract
from edge_runtime.contract import GateMetadata
from edge_runtime.names import file_name
from export.errors import CalibrationError, LabelError
from train import data
from train.data import Kind, LabelledData
from train.models import naming_hint

TRAINING = "training"
"""Key of the metadata: data, fitted_on and chosen_on, as in `train.models.Training`."""
Record = Mapping[str, Any]


def load_split(
    name: str, split: str, *, labels: tuple[str, ...], owner: object, kind: Kind = "image"
) -> LabelledData:
    """Return one split of a data set whose labels are those of a model, in the same order.

    Args:
        name: Data set name, folder or file.
        split: `train`, `validation` or `test`.
        labels: The labels of the model.
        owner: The model's location, for the message.
        kind: The kind of inputs that the model classifies.

    Raises:
        LabelError: The data have other labels, or are of another kind.
        DataError: The data are missing or unreadable.
    """
    loaded: LabelledData = getattr(data.load(name), split)
    if loaded.kind != kind:
        raise LabelError(
            f"expected {kind}s for {owner}, got {loaded.kind}s in {name}: use the data that the "
            "model was trained for"
        )
    require_labels(loaded.label_names, name, labels=labels, owner=owner)
    return loaded


def require_labels(
    got: tuple[str, ...], place: object, *, labels: tuple[str, ...], owner: object
) -> None:
    """Raise `LabelError` unless the labels are the same, in the same order."""
    if got != labels:
        raise LabelError(
            f"expected the {len(labels)} labels of {owner} ({', '.join(labels[:5])} ...), got "
            f"{len(got)} in {place} ({', '.join(got[:5])} ...): use the data that the model was "
            f"trained for{naming_hint(labels)}"
        )


def kind_of(metadata: GateMetadata) -> Kind:
    """Return the kind of inputs that a bundle classifies."""
    return "text" if metadata.input.name == contract.TEXT else "image"


def require_fresh(extra: Record, data: str, split: str) -> None:
    """Refuse to certify a threshold on inputs that fitted weights.

    The metadata `extra` of the model hold the records of its training and its deferral head.

    Raises:
        CalibrationError: Weights of the model or of its deferral head were fitted on the split.
    """
    for part, splits in _fitted(extra, data):
        if split in splits:
            raise CalibrationError(
                f"expected a guarantee on inputs that {part} was not fitted on, got {split} of "
                f"{data} for both: use another --split, or other data"
            )


def freshness_note(extra: Record, data: str | None, split: str, *, certified: bool) -> str:
    """Return a note on calibration inputs that had a part in making the model, or an empty text."""
    if data is None:
        return ""
    for part, splits in _fitted(extra, data):
        if split in splits:
            return (
                f"; {part} was fitted on the same inputs ({split} of {data}): expect another "
                "deferral ratio on fresh inputs, and calibrate on fresh ones if you can"
            )
    if certified and was_chosen_on(extra, data, split):
        return (
            f"; {split} of {data} also decided when training stopped: for a guarantee in the "
            "strict sense use another --split, or other data"
        )
    return ""


def was_chosen_on(extra: Record, data: str, split: str) -> bool:
    """Return whether the inputs decided when training stopped."""
    training = _record(extra, TRAINING)
    return _is_same(training, data) and split in training.get("chosen_on", ())


def _fitted(extra: Record, data: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return each part of the model with the splits of the data that it was fitted on."""
    head, training = _record(extra, contract.DEFERRAL_HEAD), _record(extra, TRAINING)
    parts: list[tuple[str, tuple[str, ...]]] = []
    if _is_same(head, data):
        parts.append(("the deferral head", (str(head.get("split")),)))
    if _is_same(training, data):
        parts.append(("M_S", tuple(training.get("fitted_on", ()))))
    return parts


def _record(extra: Record, key: str) -> Record:
    record = extra.get(key)
    return record if isinstance(record, dict) else {}  # another toolkit may write anything


def _is_same(record: Record, data: str) -> bool:
    if "data" not in record:
        return False
    one, other = (Path(file_name(str(name))) for name in (record["data"], data))
    return one.absolute() == other.absolute()
