"""What can go wrong in the server, before it serves and in a call.

GatekeeperError
├── ListenError (OSError)             the address cannot be listened on
└── CallError                         one call is refused; carries its gRPC status
    ├── BadRequestError (ValueError)  INVALID_ARGUMENT
    ├── NotServedError (LookupError)  NOT_FOUND
    ├── OverloadError                 RESOURCE_EXHAUSTED
    └── ModelFailureError (RuntimeError)  INTERNAL
"""

from __future__ import annotations

from typing import ClassVar

import grpc

from edge_runtime.errors import GatekeeperError


class ListenError(GatekeeperError, OSError):
    """The address is taken, forbidden, or not this machine's."""


class CallError(GatekeeperError):
    """One call is refused; the server goes on."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN


class BadRequestError(CallError, ValueError):
    """The request does not follow the protocol or does not fit the model."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotServedError(CallError, LookupError):
    """No such model or version is served here."""

    code = grpc.StatusCode.NOT_FOUND


class OverloadError(CallError):
    """The request is too large, or too many wait already."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class ModelFailureError(CallError, RuntimeError):
    """The model itself failed on an input that was in order."""

    code = grpc.StatusCode.INTERNAL
