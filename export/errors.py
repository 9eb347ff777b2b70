"""What can go wrong in an export.

ExportError (GatekeeperError)
├── GraphError (ValueError)            a graph cannot be gated
├── PreprocessingError (ValueError)    a processor's settings cannot be fused
├── CalibrationError (ValueError)      the data cannot give a threshold
├── LabelError (ValueError)            the data are of other classes than the model
├── VerificationError (ArithmeticError) the exported graph does not decide as the model does
├── OutputError (FileExistsError)      the output folder holds something already
└── WriteError (OSError)               the output folder cannot be written
"""

from __future__ import annotations

from edge_runtime.errors import GatekeeperError


class ExportError(GatekeeperError):
    """An export failed in a way the user can mend; nothing was written."""


class GraphError(ExportError, ValueError):
    """A graph has no single output of logits to put a gate on."""


class PreprocessingError(ExportError, ValueError):
    """A processor does something that is not fused into the graph."""


class CalibrationError(ExportError, ValueError):
    """The data cannot give a threshold."""


class LabelError(ExportError, ValueError):
    """Data or a checkpoint have other labels than the model."""


class VerificationError(ExportError, ArithmeticError):
    """The exported graph does not decide as the model does."""


class OutputError(ExportError, FileExistsError):
    """The output folder holds something already."""


class WriteError(ExportError, OSError):
    """The system does not let the bundle be written: no space, no permission."""
