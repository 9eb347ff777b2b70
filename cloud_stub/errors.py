"""Errors of the server: before it serves, in a single call, and when a model is deployed.

GatekeeperError
├── ListenError (OSError)             the address cannot be listened on
├── LimitError                        the system's limit on memory leaves too little for calls
├── DeployError (ValueError)          nothing was deployed: model, names or folder do not fit
└── CallError                         one call is refused; carries its gRPC status
    ├── BadRequestError (ValueError)  INVALID_ARGUMENT
    │   └── RefusedRowsError          the same, for some rows of a batch
    ├── NotServedError (LookupError)  NOT_FOUND
    ├── OverloadError                 RESOURCE_EXHAUSTED
    ├── ExpiredError (TimeoutError)   DEADLINE_EXCEEDED
    ├── UnavailableError              UNAVAILABLE
    └── ModelFailureError (RuntimeError)  INTERNAL
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

import grpc

from edge_runtime.errors import GatekeeperError

_MEMORY_PUSHBACK_S: Final = 1.0


class ListenError(GatekeeperError, OSError):
    """The address is taken, forbidden, or does not belong to this machine."""


class LimitError(GatekeeperError):
    """The system's limit on memory leaves too little for calls."""


class DeployError(GatekeeperError, ValueError):
    """Model, names or output folder do not fit the engine or one another; nothing was written."""


class CallError(GatekeeperError):
    """One call is refused; the server continues."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    reasons: Mapping[int, str] = MappingProxyType({})
    """Row of the call -> reason, if only some of its rows cause the refusal."""


class BadRequestError(CallError, ValueError):
    """The request does not follow the protocol or does not fit the model."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class RefusedRowsError(BadRequestError):
    """Some rows of a batch cannot be answered; the others can be, without them.

    Args:
        reasons: Row of the batch -> reason.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__("; ".join(f"row {row}: {why}" for row, why in reasons.items()))
        self.reasons = reasons


class NotServedError(CallError, LookupError):
    """This server has no such model or version."""

    code = grpc.StatusCode.NOT_FOUND


class OverloadError(CallError):
    """The request is too large, or too many calls are waiting.

    Args:
        message: The limit that is exceeded.
        pushback_s: Seconds after which a retry makes sense; None if it never does.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, *, pushback_s: float | None = None) -> None:
        super().__init__(message)
        self.pushback_s = pushback_s


def out_of_memory() -> OverloadError:
    """Return the error of a call for which the process got no memory."""
    return OverloadError(
        "no memory is left for this call: send fewer rows, or try again later",
        pushback_s=_MEMORY_PUSHBACK_S,
    )


class ExpiredError(CallError, TimeoutError):
    """The call's deadline passed before it was answered."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class UnavailableError(CallError):
    """This server cannot answer; another one might."""

    code = grpc.StatusCode.UNAVAILABLE


class ModelFailureError(CallError, RuntimeError):
    """The model failed on a valid input.

    Args:
        message: A description of the failure.
        reasons: Row of the call -> reason, if it failed on some rows only.
    """

    code = grpc.StatusCode.INTERNAL

    def __init__(self, message: str, *, reasons: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.reasons = reasons or {}
