"""The settings that say where a model comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

_SOURCES = ("checkpoint", "program", "onnx")
_FOREIGN = ("logits", "labels", "processor")


@dataclass(frozen=True, kw_only=True)
class SourceSettings(Command):
    """A checkpoint, a program or an ONNX file, and what the latter two do not say of themselves."""

    checkpoint: Path | None = field("checkpoint folder", default=None)
    program: Path | None = field("program of torch.export instead, FILE.pt2", default=None)
    onnx: Path | None = field("somebody else's ONNX classifier instead", default=None)
    logits: str | None = field(
        "name of the logits in --program or --onnx, where several could be", default=None
    )
    labels: Path | None = field(
        "labels of --program or --onnx: a text file, one a line, or a folder with config.json; "
        "those of --calibrate if not given",
        default=None,
    )
    exporter: Literal["auto", "optimum", "torch"] = field(
        "who translates --checkpoint: auto takes optimum where it is installed and knows the "
        "model, else torch.onnx",
        default="auto",
    )
    processor: Path | None = field(
        "folder with the preprocessor_config.json of --program or --onnx", default=None
    )

    def check_source(self, calibrate: str | None, confidence: str) -> None:
        """Raise `SettingError` unless one source is named, with what belongs to it.

        Args:
            calibrate: The calibration data, or None.
            confidence: The kind of confidence.
        """
        named = [f"--{name}" for name in _SOURCES if getattr(self, name) is not None]
        if len(named) != 1:
            raise SettingError(
                "expected one of --checkpoint DIR, --program FILE and --onnx FILE, got "
                f"{' and '.join(named) or 'none'}"
            )
        if self.checkpoint is not None:
            self._check_checkpoint()
            return
        if self.exporter != "auto":
            raise SettingError(
                f"expected --checkpoint with --exporter, got {named[0]}: it is translated already "
                "or by torch.onnx alone"
            )
        if confidence == "deferral_head":
            raise SettingError(
                f"expected --checkpoint with --confidence deferral_head, got {named[0]}: the head "
                "is fitted for a checkpoint and stored in it"
            )
        if calibrate is not None and self.processor is None:
            raise SettingError(
                f"expected --processor DIR with {named[0]} and --calibrate: without one nobody "
                "knows how the pictures become the model's input; or give --threshold"
            )
        if calibrate is None and self.labels is None:
            raise SettingError(
                f"expected --labels FILE with {named[0]} and --threshold: there are no data to "
                "take the names of the classes from"
            )

    def _check_checkpoint(self) -> None:
        for name in _FOREIGN:
            if getattr(self, name) is not None:
                raise SettingError(
                    f"expected --program or --onnx with --{name}, got --checkpoint: it has its own"
                )
