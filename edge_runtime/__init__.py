"""Light runtime for model cascades: M_S answers on the device, M_L in the cloud does the rest.

    from edge_runtime import Cascade
    cascade = Cascade.open("bundle", cloud="localhost:8001")
    answer = cascade(image)

Names are imported on first use (PEP 562): `import edge_runtime` costs nothing, and
`edge_runtime.metrics` costs numpy alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edge_runtime import reports

reports.switch_off()

if TYPE_CHECKING:
    from edge_runtime.answer import Answer, Source, Timings
    from edge_runtime.async_cascade import AsyncCascade
    from edge_runtime.cascade import Cascade
    from edge_runtime.cloud.breaker import BreakerSettings
    from edge_runtime.cloud.model import CloudModel
    from edge_runtime.cloud.security import Security
    from edge_runtime.edge_model import EdgeModel
    from edge_runtime.errors import (
        BundleError,
        CloudCircuitOpenError,
        CloudDeadlineError,
        CloudError,
        CloudMisconfiguredError,
        CloudOverloadedError,
        CloudProtocolError,
        CloudRejectedError,
        CloudUnavailableError,
        ContractVersionError,
        DependencyError,
        GatekeeperError,
        InputError,
        SettingError,
        ShortMemoryError,
        UseError,
    )
    from edge_runtime.language.decoder import Decoder
    from edge_runtime.language.generation import Generation
    from edge_runtime.policies.budget import DeferralBudget
    from edge_runtime.policies.drift import DriftAlarm
    from edge_runtime.policies.policy import Policy
    from edge_runtime.recording.recorder import Recorder
    from edge_runtime.recording.records import Record, read_records

_MODULES = {
    "Answer": "answer",
    "Source": "answer",
    "Timings": "answer",
    "AsyncCascade": "async_cascade",
    "BreakerSettings": "cloud.breaker",
    "Cascade": "cascade",
    "CloudModel": "cloud.model",
    "Decoder": "language.decoder",
    "DeferralBudget": "policies.budget",
    "DriftAlarm": "policies.drift",
    "EdgeModel": "edge_model",
    "Generation": "language.generation",
    "Policy": "policies.policy",
    "Record": "recording.records",
    "Recorder": "recording.recorder",
    "Security": "cloud.security",
    "read_records": "recording.records",
}
"""Module of each public name that is not one of `edge_runtime.errors`."""

__all__ = [
    "Answer",
    "AsyncCascade",
    "BreakerSettings",
    "BundleError",
    "Cascade",
    "CloudCircuitOpenError",
    "CloudDeadlineError",
    "CloudError",
    "CloudMisconfiguredError",
    "CloudModel",
    "CloudOverloadedError",
    "CloudProtocolError",
    "CloudRejectedError",
    "CloudUnavailableError",
    "ContractVersionError",
    "Decoder",
    "DeferralBudget",
    "DependencyError",
    "DriftAlarm",
    "EdgeModel",
    "GatekeeperError",
    "Generation",
    "InputError",
    "Policy",
    "Record",
    "Recorder",
    "Security",
    "SettingError",
    "ShortMemoryError",
    "Source",
    "Timings",
    "UseError",
    "read_records",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("edge_runtime.environment").toolkit_version()
    if name not in __all__:
        raise AttributeError(f"module 'edge_runtime' has no attribute {name!r}")
    module = _MODULES.get(name, "errors")
    value = getattr(importlib.import_module(f"edge_runtime.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
