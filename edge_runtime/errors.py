"""The exceptions of `edge_runtime`, and the family error that every package builds on.

GatekeeperError
├── BundleError (ValueError)          a bundle's folder, graph or metadata is not what it should be
│   └── ContractVersionError          written for a contract this runtime does not know
├── InputError (ValueError)           the caller's input does not fit the model
│   └── PictureSizeError              a picture has too many pixels to be decoded
├── DependencyError (ImportError)     an optional library is missing
├── SettingError (ValueError)         a setting is out of range or contradicts another
├── UseError (RuntimeError)           what is used is closed, or belongs to another process
└── CloudError (ConnectionError)      the large model gave no usable answer
    ├── CloudUnavailableError         nothing answers at the address
    │   └── CloudCircuitOpenError     nothing was sent: it did not answer lately
    ├── CloudDeadlineError            no answer in time
    ├── CloudOverloadedError          the server has too much to do
    ├── CloudMisconfiguredError       certificate, token or protection do not fit
    ├── CloudRejectedError            the server refused the request
    └── CloudProtocolError            the server answered, but not with what was asked for

A command line prints the message of a `GatekeeperError` in one line and exits with status 1; any
other exception is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Mapping


class GatekeeperError(Exception):
    """Something the user can mend; the message says what was expected, what came, what to do."""


class BundleError(GatekeeperError, ValueError):
    """A bundle, its graph or its metadata is missing, damaged or foreign."""


class ContractVersionError(BundleError):
    """The bundle follows a contract version that this runtime does not know.

    Args:
        came: The version found in the bundle.
        known: The version this runtime implements.
    """

    def __init__(self, came: object, known: int) -> None:
        super().__init__(
            f"expected gate contract version {known}, the bundle says {came!r}: "
            "update gatekeeper-edge, or export the bundle again with this version"
        )


class InputError(GatekeeperError, ValueError):
    """An input does not fit the model in name, type, rank, size or content."""


class PictureSizeError(InputError):
    """A picture has too many pixels to be decoded."""


class DependencyError(GatekeeperError, ImportError):
    """An optional library is not installed.

    Args:
        library: The missing distribution.
        purpose: What needs it.
        extra: The extra of gatekeeper-edge that brings it.
    """

    def __init__(self, library: str, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs {library}, which is not installed: "
            f"pip install 'gatekeeper-edge[{extra}]'"
        )


class SettingError(GatekeeperError, ValueError):
    """A setting has no sense: wrong type, out of range, or contradicted by another setting."""


class UseError(GatekeeperError, RuntimeError):
    """Something is used after it was closed, or in another process than it was opened in."""


class CloudError(GatekeeperError, ConnectionError):
    """The large model gave no usable answer; the cascade answers with M_S instead."""


class CloudUnavailableError(CloudError):
    """Nothing answered at the address."""


class CloudCircuitOpenError(CloudUnavailableError):
    """Nothing was sent: the server did not answer lately, and is being probed."""


class CloudDeadlineError(CloudError, TimeoutError):
    """No answer arrived before the deadline."""


class CloudOverloadedError(CloudError):
    """The server has too much to do; a message that is too large is no overload."""


class CloudMisconfiguredError(CloudError):
    """Certificate, token or protection of the link do not fit; waiting does not help."""


class CloudRejectedError(CloudError):
    """The server refused the request (unknown model, bad input, too large a message).

    Args:
        message: What it said.
        rows: By row of the request why it was refused, where the server names rows.
        is_divisible: Whether parts of the request may be taken: what it holds, or how much, is at
            fault.
    """

    def __init__(
        self, message: str, *, rows: Mapping[int, str] | None = None, is_divisible: bool = False
    ) -> None:
        super().__init__(message)
        self.rows = rows or {}
        self.is_divisible = is_divisible


class CloudProtocolError(CloudError, ValueError):
    """The server's answer lacks the outputs, shapes, types or labels that were asked for."""
