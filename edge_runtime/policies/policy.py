"""What a cascade does when M_S is unsure: whom it asks, for how long, and what it may cost."""

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
    """The rules of one cascade; the defaults are a plain cascade that always answers.

    Attributes:
        mode: `cascade` forwards what M_S is unsure of, `edge_only` nothing, `cloud_only` all.
        on_cloud_failure: When M_L gives no usable answer, answer with M_S (`edge`) or `raise` the
            `CloudError`.
        soft_deadline_s: Seconds from the start of a call after which M_S's answer is returned and
            M_L's, should it still come, is dropped. The call to M_L itself has `deadline_s`, which
            tells a server that is slow from one that is gone. Costs a hand-over between threads.
        budget: What may be forwarded; over it M_S answers.
        drift: Watches the gate's decisions.
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
            raise SettingError("expected no soft_deadline_s beside mode='edge_only': nothing waits")
        if self.mode == "edge_only" and self.on_cloud_failure == "raise":
            raise SettingError("expected no on_cloud_failure='raise' beside mode='edge_only'")

    @property
    def needs_cloud(self) -> bool:
        """Whether it makes no sense without a cloud."""
        return self.mode == "cloud_only" or self.on_cloud_failure == "raise"
