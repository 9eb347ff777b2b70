"""Graphs of logits from three sources: a checkpoint, a program of `torch.export`, an ONNX file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from edge_runtime.files import scratch_folder
from export.commands.build import SourceSettings
from export.sources.checkpoint import open_image_source
from export.sources.onnx_file import open_onnx
from export.sources.program import open_program
from export.sources.source import Inputs, Source
from export.sources.text_checkpoint import open_text_source
from train.models import open_checkpoint

__all__ = ["Inputs", "Source", "open_source"]


@contextlib.contextmanager
def open_source(settings: SourceSettings) -> Iterator[Source]:
    """Open the source that the settings name, with a scratch folder for large weights.

    Raises:
        CheckpointError: The checkpoint does not open.
        ExportError: The program or the ONNX file does not open, or its labels do not fit.
    """
    with scratch_folder() as scratch:
        if settings.program is not None:
            yield open_program(settings.program, settings, scratch)
        elif settings.onnx is not None:
            yield open_onnx(settings.onnx, settings, scratch)
        else:
            assert settings.checkpoint is not None  # noqa: S101 - the settings name one source
            checkpoint = open_checkpoint(settings.checkpoint, kind=None)
            open_kind = open_text_source if checkpoint.kind == "text" else open_image_source
            yield open_kind(settings.checkpoint, checkpoint, scratch, settings.exporter)
