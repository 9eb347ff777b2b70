"""The flags of a command that say how its link to the cloud is protected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError
from edge_runtime.policies.budget import DeferralBudget
from edge_runtime.policies.policy import Mode, OnCloudFailure, Policy

# MERGEDOC edge_runtime/engine_flags.py: 'The flags of a command that say what a foreign engine calls things.'
# MERGEDOC edge_runtime/policies/flags.py: 'The policy of a cascade as flags of a command line.'

if TYPE_CHECKING:
    from edge_runtime.cloud.security import Security

_NEED_TLS = ("ca", "certificate", "key", "token_file", "token_env", "server_name")

_FLAGS = ("cloud_input", "cloud_output", "cloud_reduce", "cloud_labels")
_KB = 1_000
_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class LinkFlags(Command):
    """What a command with a `--cloud` inherits; it calls `check_link` when it is created."""

    tls: bool = field("speak TLS to the cloud", default=False)
    ca: Path | None = field(
        "PEM file of the authorities that may vouch for the cloud, instead of the system's",
        default=None,
    )
    certificate: Path | None = field("PEM file of the client certificate", default=None)
    key: Path | None = field("PEM file of its key", default=None)
    token_file: Path | None = field("file that holds the bearer token", default=None)
    token_env: str | None = field("environment variable that holds the bearer token", default=None)
    server_name: str | None = field(
        "name in the cloud's certificate, where the address has another", default=None
    )
    allow_plaintext: bool = field("send inputs unencrypted to another machine", default=False)

    def check_link(self, *, has_cloud: bool) -> None:
        """Refuse flags that contradict one another, or that nothing would read.

        Raises:
            SettingError: They do.
        """
        given = [f"--{name.replace('_', '-')}" for name in _NEED_TLS if getattr(self, name)]
        if given and not self.tls:
            raise SettingError(
                f"expected --tls beside {given[0]}, got none: in plaintext there is neither "
                "certificate nor token"
            )
        if self.tls and self.allow_plaintext:
            raise SettingError("expected --tls or --allow-plaintext, got both: give one of them")
        if not has_cloud and (self.tls or self.allow_plaintext):
            flag = "--tls" if self.tls else "--allow-plaintext"
            raise SettingError(f"expected --cloud beside {flag}, got none: name the server")
        if self.tls:
            self.security()  # checks itself

    def security(self) -> Security | None:
        """Return the protection that the flags ask for, None for plaintext."""
        if not self.tls:
            return None
        from edge_runtime.cloud.security import Security

        return Security(**{name: getattr(self, name) for name in _NEED_TLS})

    def link_options(self) -> dict[str, Any]:
        """Return the flags as `Cascade.open` and `CloudModel.open` take them."""
        return {"security": self.security(), "allow_plaintext": self.allow_plaintext}


@dataclass(frozen=True, kw_only=True)
class EngineFlags(Command):
    """What a command with a `--cloud` inherits; it calls `check_engine` when it is created."""

    cloud_input: str | None = field(
        "a foreign engine's name of its input, where it is not the bundle's", default=None
    )
    cloud_output: str | None = field(
        "a foreign engine's output that answers: class names, class indices or scores",
        default=None,
    )
    cloud_reduce: Literal["argmax"] | None = field(
        "how to reduce that output when it holds scores", default=None
    )
    cloud_labels: Path | None = field(
        "file of the foreign engine's class names in its order, one a line", default=None
    )
    forward: Literal["original", "model_input"] = field(
        "send the input as it came, or as the bundle's graph takes it", default="original"
    )

    def check_engine(self, *, has_cloud: bool) -> None:
        """Refuse flags that nothing would read.

        Raises:
            SettingError: There are some.
        """
        given = [f"--{name.replace('_', '-')}" for name in _FLAGS if getattr(self, name)]
        if given and not has_cloud:
            raise SettingError(f"expected --cloud beside {given[0]}, got none: name the server")
        if self.cloud_output is None and (self.cloud_reduce or self.cloud_labels):
            raise SettingError(
                f"expected --cloud-output beside {given[-1]}, got none: name the output to read"
            )

    def engine_options(self) -> dict[str, Any]:
        """Return the flags as `Cascade.open` takes them.

        Raises:
            SettingError: The file of class names cannot be read.
        """
        options: dict[str, Any] = {
            name: getattr(self, name) for name in _FLAGS if getattr(self, name) is not None
        }
        if self.cloud_labels is not None:
            options["cloud_labels"] = _read_labels(self.cloud_labels)
        return {"forward": self.forward, **options}


def _read_labels(file: Path) -> tuple[str, ...]:
    try:
        return tuple(file.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise SettingError(
            f"expected a file of class names at {file}, one a line ({reason}): check the path"
        ) from None


if TYPE_CHECKING:
    from edge_runtime.policies.drift import DriftAlarm


@dataclass(frozen=True, kw_only=True)
class PolicyFlags(Command):
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
