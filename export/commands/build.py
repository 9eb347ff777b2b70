"""The command `python -m export`: a checkpoint, program or ONNX file becomes a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime import contract
from edge_runtime.cli import field
from edge_runtime.contract import SecondView
from edge_runtime.errors import SettingError
from export.commands.goal import GoalSettings
from export.commands.source import SourceSettings

BAND = 0.1
"""Ranks on either side of the threshold: most of what two looks at every input would gain."""


@dataclass(frozen=True, kw_only=True)
class BuildSettings(SourceSettings, GoalSettings):
    """Export a classifier as a bundle: preprocessing, model and gate in one ONNX graph.

    Example: python -m export --checkpoint runs/tuned --out bundle --calibrate digits \
--target-deferral 0.3
    """

    out: Path = field("bundle folder to write")
    confidence: Literal["max_softmax", "neg_entropy", "deferral_head"] = field(
        "how confidence is made; deferral_head is what `train deferral-head` has fitted",
        default="max_softmax",
    )
    second_look: SecondView = field(
        "second view of inputs near the threshold, averaged with the first", default="none"
    )
    band: float | None = field(
        f"how near, in ranks of the calibration data ({BAND} if not given; 1 is every input)",
        default=None,
    )
    quantize: Literal["none", "fp16", "int8", "int8-dynamic", "int4"] = field(
        "int8 for convolutions, int8-dynamic or int4 for matrix products, fp16 to halve the size; "
        "the threshold is chosen on the quantized graph",
        default="none",
    )
    max_flips: float = field(
        "share of the decisions that may differ from the float graph's after quantization",
        default=0.01,
    )
    emit: Literal["none", "logits", "probabilities"] = field("one more output", default="none")
    preprocessing: Literal["fused", "none"] = field(
        "fused takes uint8 pictures, none (and a model without --processor) what the model takes",
        default="fused",
    )
    seed: int = field("seed of the pictures that verify without calibration data", default=0)
    overwrite: bool = field("replace the bundle", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_source(self.calibrate, self.confidence)
        if self.quantize != "none" and self.calibrate is None:
            raise SettingError(
                "expected --calibrate DATA with --quantize, got --threshold: quantization moves "
                "the confidences, so the threshold has to be chosen on the quantized graph"
            )
        if not 0.0 <= self.max_flips <= 1.0:
            raise SettingError(f"expected --max-flips in [0, 1], got {self.max_flips}")
        if self.second_look == "none":
            if self.band is not None:
                raise SettingError("expected --second-look with --band: name the second view")
            return
        if self.confidence != contract.MAX_SOFTMAX:
            raise SettingError(
                f"expected --confidence {contract.MAX_SOFTMAX} with --second-look, got "
                f"{self.confidence}: only probabilities of two views are averaged"
            )
        if not self.half_width >= 0:
            raise SettingError(f"expected --band of at least 0, got {self.band}")
        if self.is_certified and 0 < self.half_width < contract.EVERY_INPUT:
            raise SettingError(
                f"expected --band {contract.EVERY_INPUT:g} with --second-look and a guarantee, got "
                f"{self.half_width:g}: a band that is chosen on the same data voids it"
            )
        if self.calibrate is None and 0 < self.half_width < contract.EVERY_INPUT:
            raise SettingError(
                "expected --calibrate DATA with --second-look, because a band is one of ranks "
                f"among data: got --threshold, give --band {contract.EVERY_INPUT:g} to look twice "
                "at every input"
            )

    @property
    def half_width(self) -> float:
        """Half the band's width in ranks; 0 where no second look is taken."""
        if self.second_look == "none":
            return 0.0
        return BAND if self.band is None else self.band

    @property
    def view(self) -> str | None:
        """The second view that the graph takes, or None: an empty band needs no copy of a model."""
        return self.second_look if self.half_width > 0 else None

    def run(self) -> None:
        """Export, calibrate, verify, and only then write."""
        from export.bundle import require_writable

        require_writable(
            self.out, overwrite=self.overwrite
        )  # before torch takes its seconds to load
        from export.classifier.pipeline import build_bundle

        build_bundle(self)
