"""The policy of a cascade as flags of a command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_runtime.cli import field
from edge_runtime.errors import SettingError
from edge_runtime.policies.budget import DeferralBudget
from edge_runtime.policies.policy import Mode, OnCloudFailure, Policy

if TYPE_CHECKING:
    from edge_runtime.policies.drift import DriftAlarm

_KB = 1_000
_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class PolicyFlags:
    """Whom to ask, for how long, and what it may cost."""

    mode: Mode = field("who may answer", default="cascade")
    on_cloud_failure: OnCloudFailure = field(
        "what to do with an input whose cloud answer failed", default="edge"
    )
    soft_deadline_s: float | None = field(
        "seconds after which the small model's answer is taken", default=None
    )
    budget_calls: int | None = field("forward at most so many inputs a window", default=None)
    budget_kb: float | None = field("forward at most so many kilobytes a window", default=None)
    budget_window_s: float = field("length of that window, in seconds", default=_DAY_S)

    def policy(self, drift: DriftAlarm | None = None) -> Policy:
        """Return the policy.

        Raises:
            SettingError: A flag makes no sense.
        """
        return Policy(
            mode=self.mode,
            on_cloud_failure=self.on_cloud_failure,
            soft_deadline_s=self.soft_deadline_s,
            budget=self._budget(),
            drift=drift,
        )

    def _budget(self) -> DeferralBudget | None:
        if self.budget_calls is None and self.budget_kb is None:
            return None
        if self.budget_kb is not None and not 0 <= self.budget_kb < float("inf"):
            raise SettingError(f"expected --budget-kb of at least 0, got {self.budget_kb}")
        return DeferralBudget(
            max_calls=self.budget_calls,
            max_bytes=None if self.budget_kb is None else int(self.budget_kb * _KB),
            window_s=self.budget_window_s,
        )
