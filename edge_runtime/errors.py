"""The exceptions of `edge_runtime`, and the base class that every package builds on.

GatekeeperError
├── BundleError (ValueError)          a bundle's folder, graph or metadata is missing or wrong
│   └── ContractVersionError          written for a contract version this runtime does not know
├── InputError (ValueError)           the caller's input does not fit the model
│   └── PictureSizeError              a picture has too many pixels to decode
├── ShortMemoryError (MemoryError)    this device has too little memory for the input
├── DependencyError (ImportError)     an optional library is missing
├── SettingError (ValueError)         a setting is out of range or contradicts another
├── UseError (RuntimeError)           the object is closed, or belongs to another process
└── CloudError (ConnectionError)      the large model gave no usable answer
    ├── CloudUnavailableError         nothing answers at the address
    │   └── CloudCircuitOpenError     nothing was sent: recent calls failed
    ├── CloudDeadlineError            no answer in time
    ├── CloudOverloadedError          the server is overloaded
    ├── CloudMisconfiguredError       wrong certificate, token or protection
    ├── CloudRejectedError            the server refused the request
    └── CloudProtocolError            the server's answer does not fit the request

A command line prints the message of a `GatekeeperError` on one line and exits with status 1. Any
other exception is a bug in this toolkit and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# What ONNX Runtime, torch and Python say in errors of other classes.
_NO_MEMORY: Final = (
    "bad_alloc",
    "bad allocation",
    "allocate memory",  # "failed to" (ONNX Runtime), "can't", "cannot" (torch, the system)
    "not enough memory",
    "out of memory",
    "alloc_failed",  # CUDA's libraries
    "is smaller than requested bytes",  # a limited arena of ONNX Runtime
    "can't start new thread",
)


class GatekeeperError(Exception):
    """A problem the user can fix; the message names what was expected, what came, what to do."""


class BundleError(GatekeeperError, ValueError):
    """A bundle, its graph or its metadata is missing, damaged or foreign."""


class ContractVersionError(BundleError):
    """The bundle follows a contract version that this runtime does not know.

    Args:
        found: The version in the bundle.
        known: The version this runtime implements.
    """

    def __init__(self, found: object, known: int) -> None:
        super().__init__(
            f"expected gate contract version {known}, the bundle says {found!r}: "
            "update gatekeeper-edge, or export the bundle again with this version"
        )


class InputError(GatekeeperError, ValueError):
    """An input does not fit the model in name, type, rank, size or content."""


class PictureSizeError(InputError):
    """A picture has too many pixels to decode."""


class ShortMemoryError(GatekeeperError, MemoryError):
    """This device has too little memory for an input, which may be a good one."""


class DependencyError(GatekeeperError, ImportError):
    """An optional library is not installed.

    Args:
        library: The missing distribution.
        purpose: The feature that needs it.
        extra: The extra of gatekeeper-edge that installs it.
    """

    def __init__(self, library: str, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs {library}, which is not installed: "
            f"pip install 'gatekeeper-edge[{extra}]'"
        )


class SettingError(GatekeeperError, ValueError):
    """A setting is invalid: wrong type, out of range, or contradicted by another setting."""


class UseError(GatekeeperError, RuntimeError):
    """An object is used after it was closed, or in another process than the one that opened it."""


class CloudError(GatekeeperError, ConnectionError):
    """The large model gave no usable answer; the cascade answers with M_S instead."""


class CloudUnavailableError(CloudError):
    """Nothing answered at the address."""


class CloudCircuitOpenError(CloudUnavailableError):
    """Nothing was sent: recent calls to the server failed, and it is being probed."""


class CloudDeadlineError(CloudError, TimeoutError):
    """No answer arrived before the deadline."""


class CloudOverloadedError(CloudError):
    """The server is overloaded. Not raised for messages above the size limit."""


class CloudMisconfiguredError(CloudError):
    """The link's certificate, token or protection is wrong; waiting does not help."""


class CloudRejectedError(CloudError):
    """The server refused the request (unknown model, bad input, message too large).

    Args:
        message: The error text.
        rows: The reason for each refused row, by its place in the request, where the server names
            rows.
        is_divisible: Whether the server may accept parts of the request: its content or its size
            is at fault.
    """

    def __init__(
        self, message: str, *, rows: Mapping[int, str] | None = None, is_divisible: bool = False
    ) -> None:
        super().__init__(message)
        self.rows = rows or {}
        self.is_divisible = is_divisible


class CloudProtocolError(CloudError, ValueError):
    """The server's answer lacks the requested outputs, shapes, types or labels."""


def lacks_memory(error: BaseException) -> bool:
    """Return whether something failed because the process got no memory."""
    if isinstance(error, MemoryError):
        return True
    message = str(error).lower()
    return any(text in message for text in _NO_MEMORY)
