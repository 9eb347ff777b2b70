"""What can go wrong in the server, before it serves and in a call.

GatekeeperError
├── ListenError (OSError)             the address cannot be listened on
└── CallError                         one call is refused; carries its gRPC status
    ├── BadRequestError (ValueError)  INVALID_ARGUMENT
    │   └── RefusedRowsError          the same, of some rows of a batch
    ├── NotServedError (LookupError)  NOT_FOUND
    ├── OverloadError                 RESOURCE_EXHAUSTED
    ├── ExpiredError (TimeoutError)   DEADLINE_EXCEEDED
    ├── UnavailableError              UNAVAILABLE
    └── ModelFailureError (RuntimeError)  INTERNAL
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import grpc

from edge_runtime.errors import GatekeeperError

# MERGEDOC cloud_stub/deploy/errors.py: 'What stops a deployment; nothing is written then.\n\nGatekeeperError\n└── DeployError (ValueError)   model, names and folder do not fit the engine or one another\n'


class ListenError(GatekeeperError, OSError):
    """The address is taken, forbidden, or not this machine's."""


class CallError(GatekeeperError):
    """One call is refused; the server goes on."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    reasons: Mapping[int, str] = MappingProxyType({})
    """By row of the call why it is refused, where its other rows might be answered."""


class BadRequestError(CallError, ValueError):
    """The request does not follow the protocol or does not fit the model."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class RefusedRowsError(BadRequestError):
    """Some rows of a batch cannot be answered; the others could be, without them.

    Args:
        reasons: By row of the batch: why.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__("; ".join(f"row {row}: {why}" for row, why in reasons.items()))
        self.reasons = reasons


class NotServedError(CallError, LookupError):
    """No such model or version is served here."""

    code = grpc.StatusCode.NOT_FOUND


class OverloadError(CallError):
    """The request is too large, or too many wait already.

    Args:
        message: What is full.
        pushback_s: When it may be tried again; None: not at all as it is.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, *, pushback_s: float | None = None) -> None:
        super().__init__(message)
        self.pushback_s = pushback_s


class ExpiredError(CallError, TimeoutError):
    """The call's deadline passed before the model could work on it."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class UnavailableError(CallError):
    """This server cannot answer; another one might."""

    code = grpc.StatusCode.UNAVAILABLE


class ModelFailureError(CallError, RuntimeError):
    """The model itself failed on an input that was in order.

    Args:
        message: How.
        reasons: By row, where it failed on some rows alone.
    """

    code = grpc.StatusCode.INTERNAL

    def __init__(self, message: str, *, reasons: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.reasons = reasons or {}


class DeployError(GatekeeperError, ValueError):
    """The model cannot be served as asked, or the output folder is in use."""
