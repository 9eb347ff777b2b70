"""The policy of a cascade: mode, deadlines, budget and drift alarm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edge_runtime.errors import SettingError
from edge_runtime.policies.budget import DeferralBudget
from edge_runtime.policies.drift import DriftAlarm

Mode = Literal["cascade", "edge_only", "cloud_only"]
OnCloudFailure = Literal["edge", "raise"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The policy of one cascade; by default a plain cascade that always answers.

    Attributes:
        mode: `cascade` forwards the inputs that M_S defers, `edge_only` none, `cloud_only` all.
        on_cloud_failure: `edge` answers with M_S when M_L gives no usable answer, `raise` raises
            the `CloudError`.
        soft_deadline_s: Seconds from the start of a call after which M_S's answer is returned and
            a later one of M_L is dropped. The call to M_L keeps its own `deadline_s`, so that a
            slow server can be distinguished from a dead one. Costs a switch between threads.
        budget: Limit on forwarded requests; above it M_S answers.
        drift: Alarm that watches the gate's decisions.
    """

    mode: Mode = "cascade"
    on_cloud_failure: OnCloudFailure = "edge"
    soft_deadline_s: float | None = None
    budget: DeferralBudget | None = None
    drift: DriftAlarm | None = None

    def __post_init__(self) -> None:
        for name, kind in (("mode", Mode), ("on_cloud_failure", OnCloudFailure)):
            if getattr(self, name) not in get_args(kind):
                raise SettingError(
                    f"expected {name} as one of {', '.join(get_args(kind))}, got "
                    f"{getattr(self, name)!r}"
                )
        if self.soft_deadline_s is not None and not 0 < self.soft_deadline_s < float("inf"):
            raise SettingError(
                f"expected soft_deadline_s in seconds over 0, got {self.soft_deadline_s}"
            )
        if self.soft_deadline_s is not None and self.mode == "edge_only":
            raise SettingError("expected no soft_deadline_s with mode='edge_only': nothing waits")
        if self.mode == "edge_only" and self.on_cloud_failure == "raise":
            raise SettingError("expected no on_cloud_failure='raise' with mode='edge_only'")

    @property
    def needs_cloud(self) -> bool:
        """True where the policy is useless without a cloud."""
        return self.mode == "cloud_only" or self.on_cloud_failure == "raise"
