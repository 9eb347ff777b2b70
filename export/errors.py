"""Errors of an export.

ExportError (GatekeeperError)
├── GraphError (ValueError)             a graph cannot be gated
├── PreprocessingError (ValueError)     a processor's settings cannot be fused
├── CalibrationError (ValueError)       the data cannot give a threshold
├── LabelError (ValueError)             the data have other labels than the model
├── VerificationError (ArithmeticError) the exported graph and the model decide differently
├── OutputError (FileExistsError)       the output folder is taken
└── WriteError (OSError)                the output folder cannot be written
"""

from __future__ import annotations

from edge_runtime.errors import GatekeeperError


class ExportError(GatekeeperError):
    """An export failed for a reason that the user can fix; nothing was written."""


class GraphError(ExportError, ValueError):
    """A graph, or the model it comes from, cannot be gated."""


class PreprocessingError(ExportError, ValueError):
    """A processor or tokenizer does something that a bundle cannot hold."""


class CalibrationError(ExportError, ValueError):
    """The data cannot give a threshold for the goal."""


class LabelError(ExportError, ValueError):
    """Data or a checkpoint have other labels than the model."""


class VerificationError(ExportError, ArithmeticError):
    """The exported graph does not decide as the model does."""


class OutputError(ExportError, FileExistsError):
    """The output folder already holds something that may not be replaced."""


class WriteError(ExportError, OSError):
    """The bundle cannot be written: no space or no permission."""
