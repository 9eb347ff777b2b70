"""The command `python -m export retune`: another threshold for a bundle, without a new export."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_runtime.cli import field
from export.commands.build import check_goal


@dataclass(frozen=True, kw_only=True)
class RetuneSettings:
    """Give a bundle another threshold, chosen by hand or on data.

    Example: python -m export retune --bundle bundle --calibrate digits --target-deferral 0.1
    """

    bundle: Path = field("bundle folder, rewritten in place")
    threshold: float | None = field("the threshold, where it is known", default=None)
    calibrate: str | None = field("data set to choose the threshold on", default=None)
    target_deferral: float | None = field("deferral ratio to calibrate for", default=None)
    split: Literal["train", "validation", "test"] = field(
        "split of the calibration data", default="validation"
    )

    def __post_init__(self) -> None:
        check_goal(self.threshold, self.calibrate, self.target_deferral)

    def run(self) -> None:
        """Rewrite threshold, record and hashes; the rest of the graph stays as it is."""
        import onnx

        from edge_runtime.bundle import read_bundle
        from export.bundle import write_bundle
        from export.gate import set_threshold

        bundle = read_bundle(self.bundle)
        model = onnx.load(str(bundle.graph), load_external_data=False)
        threshold, record = self._choose(bundle)
        set_threshold(model, threshold)
        metadata = dataclasses.replace(bundle.metadata, threshold=threshold, calibration=record)
        write_bundle(self.bundle, model, metadata, bundle.verification, others=bundle.others)
        print(f"{self.bundle}: threshold {bundle.metadata.threshold:.6g} -> {threshold:.6g}")

    def _choose(self, bundle: Any) -> tuple[float, dict[str, Any] | None]:
        import numpy as np

        if self.threshold is not None:
            return float(np.float32(self.threshold)), None
        from edge_runtime.model import EdgeModel
        from export.calibration import calibration_record
        from export.labelled import load_split
        from export.session import run_images

        assert self.calibrate is not None  # noqa: S101 - checked on creation
        assert self.target_deferral is not None  # noqa: S101 - checked on creation
        split = load_split(
            self.calibrate, self.split, labels=bundle.metadata.labels, owner=self.bundle
        )
        confidence = run_images(EdgeModel(bundle).session, split.inputs)[1]
        return calibration_record(
            confidence, ratio=self.target_deferral, data=self.calibrate, split=self.split
        )
