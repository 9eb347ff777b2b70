"""Opens the one source that a command line names."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from export.commands.build import BuildSettings
from export.sources.checkpoint import CheckpointSource
from export.sources.onnx_file import open_onnx
from export.sources.program import open_program
from export.sources.source import Source
from export.sources.text_checkpoint import TextCheckpointSource
from train.models import open_checkpoint


@contextlib.contextmanager
def open_source(settings: BuildSettings) -> Iterator[Source]:
    """Open it for as long as the export takes: weights that stay outside the graph need a place.

    Raises:
        CheckpointError: The checkpoint does not open.
        ExportError: The program or the ONNX file does not, or its labels do not fit.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if settings.checkpoint is not None:
            yield _open_checkpoint(settings.checkpoint, settings, Path(scratch))
        elif settings.program is not None:
            yield open_program(settings.program, settings, Path(scratch))
        elif settings.onnx is not None:
            yield open_onnx(settings.onnx, settings, Path(scratch))


def _open_checkpoint(path: Path, settings: BuildSettings, scratch: Path) -> Source:
    checkpoint = open_checkpoint(path, kind=None)
    if checkpoint.kind == "text":
        return TextCheckpointSource.of(path, checkpoint, settings, scratch)
    return CheckpointSource(path, checkpoint, scratch, settings.exporter)
