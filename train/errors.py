"""What can go wrong in training.

TrainError (GatekeeperError)
├── CheckpointError (ValueError)   a checkpoint folder is missing, damaged or of another kind
├── DeviceError (RuntimeError)     a device was asked for that is not there
├── FullDiskError (OSError)        an epoch or a checkpoint could not be written
├── DataError (ValueError)         a data set is missing, unreadable or has no usable labels
├── OutputError (FileExistsError)  the output folder holds something already
├── TeacherError (ConnectionError) a teacher gave no usable answer
└── TrainingError (ArithmeticError) training left the numbers (NaN loss)
"""

from __future__ import annotations

from edge_runtime.errors import GatekeeperError


class TrainError(GatekeeperError):
    """Training or its inputs failed in a way the user can mend."""


class CheckpointError(TrainError, ValueError):
    """A checkpoint folder is missing, damaged, or of another kind than asked for."""


class DataError(TrainError, ValueError):
    """A data set is missing, unreadable, or has no usable labels."""


class DeviceError(TrainError, RuntimeError):
    """A device was asked for that is not there."""


class FullDiskError(TrainError, OSError):
    """An epoch or a checkpoint could not be written for want of space."""


class OutputError(TrainError, FileExistsError):
    """The output folder holds something already."""


class TeacherError(TrainError, ConnectionError):
    """A teacher gave no usable answer."""


class TrainingError(TrainError, ArithmeticError):
    """The loss left the numbers; the message says where."""
