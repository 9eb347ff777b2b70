"""The errors of training.

TrainError (GatekeeperError)
├── CheckpointError (ValueError)
├── DataError (ValueError)
│   └── UnreadableError
├── DeviceError (RuntimeError)
├── FullDiskError (OSError)
├── OutputError (FileExistsError)
├── TeacherError (ConnectionError)
└── TrainingError (ArithmeticError)
"""

from __future__ import annotations

from edge_runtime.errors import GatekeeperError


class TrainError(GatekeeperError):
    """Training or its inputs failed in a way that the user can fix."""


class CheckpointError(TrainError, ValueError):
    """A checkpoint folder is missing, damaged, or not of the expected kind."""


class DataError(TrainError, ValueError):
    """A data set is missing, unreadable, or has no usable labels."""


class UnreadableError(DataError):
    """A picture of a data set does not decode."""


class DeviceError(TrainError, RuntimeError):
    """The requested device is not available."""


class FullDiskError(TrainError, OSError):
    """An epoch or a checkpoint could not be written because the disk is full."""


class OutputError(TrainError, FileExistsError):
    """The output folder is taken."""


class TeacherError(TrainError, ConnectionError):
    """A teacher gave no usable answer."""


class TrainingError(TrainError, ArithmeticError):
    """Training cannot continue: the loss is not finite, or the memory or the batch does not fit."""
