"""The command `python -m export build`, which turns a classifier into a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime import contract
from edge_runtime.cli import field
from edge_runtime.cli.shared import Overwrite
from edge_runtime.contract import SecondView
from edge_runtime.errors import SettingError
from export.commands.goal import GoalSettings

Scores = Literal["logits", "probabilities", "percentages"]
BAND = 0.1
"""Ranks on either side of the threshold: most of what two looks at every input would gain."""
_SOURCES = ("checkpoint", "program", "onnx")
_FOREIGN = ("logits", "scores", "labels", "processor")


@dataclass(frozen=True, kw_only=True)
class SourceSettings(GoalSettings):
    """A model from one of three sources, with what a program or an ONNX file does not record."""

    checkpoint: Path | None = field("checkpoint folder", default=None)
    program: Path | None = field(
        "program saved by torch.export, FILE.pt2, instead of a checkpoint", default=None
    )
    onnx: Path | None = field("existing ONNX classifier instead of a checkpoint", default=None)
    logits: str | None = field(
        "name of the logits in --program or --onnx, if several values qualify", default=None
    )
    scores: Scores | None = field(
        "what --logits of --program or --onnx holds, where neither the graph nor its values tell",
        default=None,
    )
    labels: Path | None = field(
        "labels of --program or --onnx: a text file with one label a line, or a folder with "
        "config.json (default: those in the ONNX file, or of --calibrate)",
        default=None,
    )
    exporter: Literal["auto", "optimum", "torch"] = field(
        "translator of --checkpoint to ONNX: auto takes optimum if it is installed and knows the "
        "model, else torch.onnx",
        default="auto",
    )
    processor: Path | None = field(
        "folder with the preprocessor_config.json of --program or --onnx", default=None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        named = [f"--{name}" for name in _SOURCES if getattr(self, name) is not None]
        if len(named) != 1:
            raise SettingError(
                "expected one of --checkpoint DIR, --program FILE and --onnx FILE, got "
                f"{' and '.join(named) or 'none'}"
            )
        if self.checkpoint is None:
            self._check_foreign(named[0])
            return
        for name in _FOREIGN:
            if getattr(self, name) is not None:
                raise SettingError(
                    f"expected --program or --onnx with --{name}, got --checkpoint, which has its "
                    "own"
                )

    def _check_foreign(self, source: str) -> None:
        if self.exporter != "auto":
            raise SettingError(
                f"expected --checkpoint with --exporter, got {source}, which is an ONNX graph "
                "already or always goes through torch.onnx"
            )
        if self.calibrate is not None and self.processor is None:
            raise SettingError(
                f"expected --processor DIR with {source} and --calibrate, got none: the processor "
                "turns pictures into the model's input; or give --threshold"
            )
        if source == "--program" and self.calibrate is None and self.labels is None:
            raise SettingError(
                f"expected --labels FILE with {source} and --threshold, got none: without "
                "calibration data the class names are unknown"
            )


@dataclass(frozen=True, kw_only=True)
class BuildSettings(SourceSettings, Overwrite, does="export.classifier.pipeline:build"):
    """Export a classifier as a bundle: preprocessing, model and gate in one ONNX graph.

    Example: python -m export --checkpoint tuned --out bundle --calibrate digits \
--target-deferral 0.3
    """

    out: Path = field("bundle folder to write")
    confidence: Literal["max_softmax", "neg_entropy", "deferral_head"] = field(
        "kind of confidence; deferral_head uses the head that `train deferral-head` has fitted",
        default="max_softmax",
    )
    second_look: SecondView = field(
        "second view of inputs near the threshold, averaged with the first", default="none"
    )
    band: float | None = field(
        "share of the calibration inputs, by rank, that get a second look on either side of the "
        f"threshold ({BAND} if not given; 1 is every input)",
        default=None,
    )
    quantize: Literal["none", "fp16", "int8", "int8-dynamic", "int4"] = field(
        "int8 for convolutions, int8-dynamic or int4 for matrix products, fp16 to halve the size; "
        "the threshold is chosen on the quantized graph",
        default="none",
    )
    max_flips: float = field(
        "largest share of decisions that quantization may change", default=0.01, within=(0, 1)
    )
    emit: Literal["none", "logits", "probabilities"] = field(
        "additional output of the graph", default="none"
    )
    preprocessing: Literal["fused", "none"] = field(
        "fused takes uint8 pictures; none takes the model's own input, as does every model "
        "without a processor",
        default="fused",
    )
    seed: int = field(
        "seed of the random inputs that verify an export without calibration data",
        default=0,
        least=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.confidence == contract.DEFERRAL_HEAD and self.checkpoint is None:
            raise SettingError(
                "expected --checkpoint with --confidence deferral_head, got another source: the "
                "head is fitted for a checkpoint and stored in it"
            )
        self.check_quantization(self.quantize)
        if self.second_look != "none":
            self._check_second_look()
        elif self.band is not None:
            raise SettingError("expected --second-look VIEW with --band, got none")

    def _check_second_look(self) -> None:
        if self.confidence != contract.MAX_SOFTMAX:
            raise SettingError(
                f"expected --confidence {contract.MAX_SOFTMAX} with --second-look, got "
                f"{self.confidence}: only probabilities of two views can be averaged"
            )
        if self.half_width < 0:  # not declared as a bound: an infinite band is every input
            raise SettingError(f"expected --band at least 0, got {self.band}")
        if not 0 < self.half_width < contract.EVERY_INPUT:
            return
        if self.is_certified:
            raise SettingError(
                f"expected --band {contract.EVERY_INPUT:g} with --second-look and a guarantee, got "
                f"{self.half_width:g}: a band chosen on the same data voids the guarantee"
            )
        if self.calibrate is None:
            raise SettingError(
                "expected --calibrate DATA with --second-look, got --threshold: a band is measured "
                f"in ranks of data; --band {contract.EVERY_INPUT:g} looks twice at every input"
            )

    @property
    def half_width(self) -> float:
        """Half the band's width in ranks; 0 without a second look."""
        if self.second_look == "none":
            return 0.0
        return BAND if self.band is None else self.band

    @property
    def view(self) -> str | None:
        """The second view in the graph; None also for an empty band, which needs no second pass."""
        return self.second_look if self.half_width > 0 else None

    def run(self) -> None:
        """Refuse a taken output folder before torch loads, then export the classifier."""
        from export.bundle import require_writable

        require_writable(self.out, overwrite=self.overwrite)
        super().run()
