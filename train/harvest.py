"""The command `python -m train harvest`: what a device recorded, as a data set."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edge_runtime import contract
from edge_runtime.cli import field
from edge_runtime.errors import SettingError

TABLE = "train-00000-of-00001.parquet"
COUNTS = "harvest.json"


@dataclass(frozen=True, kw_only=True)
class HarvestSettings:
    """Turn recorded inputs and the large model's answers into a data set, each picture once.

    Its labels are M_L's answers, in the order of the classes of --labels-from; a column holds M_L's
    confidence. Of a picture that was recorded several times the newest answer counts. What comes
    out goes with `tune --extra`, `distill --extra` and `distill --unlabelled`.

    Example: python -m train harvest --records recorded --labels-from runs/small --out runs/harvest
    """

    records: tuple[Path, ...] = field("folders that were recorded to, e.g. a,b")
    labels_from: str = field("bundle, checkpoint or data set whose classes are meant")
    out: Path = field("folder to write")
    min_confidence: float | None = field(
        "leave out answers that M_L was less sure of (default: keeps all)", default=None
    )
    overwrite: bool = field("replace the folder", default=False)

    def __post_init__(self) -> None:
        if not self.records:
            raise SettingError("expected at least one folder for --records, got none")
        if self.min_confidence is not None and math.isnan(self.min_confidence):
            raise SettingError("expected a number as --min-confidence, got nan")

    def run(self) -> None:
        """Read the records, and write the data set with its counts."""
        from train.errors import DataError
        from train.harvesting import Harvest, write_table
        from train.output import (
            fresh_folder,
            full_disk_in_words,
            refuse_existing,
            settings_record,
        )

        refuse_existing(self.out, overwrite=self.overwrite)
        names = label_names(self.labels_from)
        harvest = Harvest.read(self.records, names, self.labels_from)
        with full_disk_in_words(self.out.parent, " and run again"), fresh_folder(self.out) as fresh:
            counts = write_table(
                harvest.rows(self.min_confidence), names, fresh / TABLE, len(harvest)
            )
            counts.update({"read": harvest.damaged, "damaged": harvest.damaged})
            if not counts["kept"]:
                raise DataError(f"expected a record to keep, got none: {_summary(counts)}")
            record = {**settings_record("harvest", self), "counts": _ordered(counts)}
            text = json.dumps(record, indent=2, default=str) + "\n"
            (fresh / COUNTS).write_text(text, encoding="utf-8")
        print(f"{self.out}: {_summary(counts)}", flush=True)


def label_names(source: str) -> tuple[str, ...]:
    """Return the class names of a bundle, a checkpoint or a data set, in its order.

    Raises:
        BundleError: The bundle is damaged.
        CheckpointError: The checkpoint is damaged.
        DataError: It is none of the three.
    """
    from train import data

    folder = Path(source)
    if (folder / contract.BUNDLE_FILE).is_file():
        from edge_runtime.bundle import read_bundle

        return read_bundle(folder).metadata.labels
    if (folder / "config.json").is_file():
        from train.models import open_checkpoint

        return open_checkpoint(folder, kind=None).labels
    return data.load_train(source).label_names


_WORDS = {
    "read": "read",
    "kept": "kept",
    "duplicates": "duplicates",
    "under_minimum": "under the minimum",
    "damaged": "damaged",
}


def _ordered(counts: Counter[str]) -> dict[str, int]:
    return {key: counts[key] for key in _WORDS}


def _summary(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {_WORDS[key]}" for key, count in _ordered(counts).items())
