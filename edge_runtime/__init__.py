"""Light runtime for model cascades: the small model answers here, the rest goes to the cloud.

    from edge_runtime import Cascade
    cascade = Cascade.open("bundle", cloud="localhost:8001")
    answer = cascade(image)

Names are imported on first use (PEP 562): `import edge_runtime` costs nothing, and
`edge_runtime.metrics` costs numpy alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
        UseError,
    )
    from edge_runtime.language.decoder import Decoder
    from edge_runtime.language.generation import Generation
    from edge_runtime.policies.budget import DeferralBudget
    from edge_runtime.policies.drift import DriftAlarm
    from edge_runtime.policies.policy import Policy
    from edge_runtime.recording.recorder import Recorder
    from edge_runtime.recording.records import Record, read_records

_HOMES = {
    "Answer": "answer",
    "Source": "answer",
    "Timings": "answer",
    "AsyncCascade": "async_cascade",
    "BreakerSettings": "cloud.breaker",
    "Cascade": "cascade",
    "DeferralBudget": "policies.budget",
    "DriftAlarm": "policies.drift",
    "Policy": "policies.policy",
    "CloudModel": "cloud.model",
    "Decoder": "language.decoder",
    "EdgeModel": "edge_model",
    "Generation": "language.generation",
    "Record": "recording.records",
    "Security": "cloud.security",
    "Recorder": "recording.recorder",
    "read_records": "recording.records",
    "BundleError": "errors",
    "CloudCircuitOpenError": "errors",
    "CloudDeadlineError": "errors",
    "CloudError": "errors",
    "CloudMisconfiguredError": "errors",
    "CloudOverloadedError": "errors",
    "CloudProtocolError": "errors",
    "CloudRejectedError": "errors",
    "CloudUnavailableError": "errors",
    "ContractVersionError": "errors",
    "DependencyError": "errors",
    "GatekeeperError": "errors",
    "InputError": "errors",
    "SettingError": "errors",
    "UseError": "errors",
}

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
    "Source",
    "Timings",
    "UseError",
    "read_records",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edge_runtime' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"edge_runtime.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
