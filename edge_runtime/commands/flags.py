"""Flags that several commands share: the link to the cloud, foreign engines, and the policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError
from edge_runtime.names import read_class_names
from edge_runtime.policies.budget import DeferralBudget
from edge_runtime.policies.policy import Mode, OnCloudFailure, Policy

if TYPE_CHECKING:
    from edge_runtime.cloud.security import Security
    from edge_runtime.policies.drift import DriftAlarm

_TLS_FLAGS = ("ca", "certificate", "key", "token_file", "token_env", "server_name")
_LINK_FLAGS = ("tls", "allow_plaintext", "use_proxy")
_ENGINE_FLAGS = ("cloud_input", "cloud_output", "cloud_reduce", "cloud_labels")
_KB = 1_000
_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class CloudFlags(Command):
    """The flags of a command with a `--cloud`; the command calls `check_cloud` on creation."""

    tls: bool = field(
        "encrypt the link with TLS, as a server on another machine needs", default=False
    )
    ca: Path | None = field(
        "PEM file of the trusted authorities, if the system's store lacks the cloud's", default=None
    )
    certificate: Path | None = field(
        "PEM file of the client certificate with its chain, if the cloud asks for one", default=None
    )
    key: Path | None = field("PEM file of its private key, not encrypted", default=None)
    token_file: Path | None = field(
        "file that holds the bearer token, if the cloud asks for one", default=None
    )
    token_env: str | None = field(
        "environment variable that holds the bearer token, instead of a file", default=None
    )
    server_name: str | None = field(
        "name in the cloud's certificate, if the address has another", default=None
    )
    allow_plaintext: bool = field(
        "send inputs unencrypted to another machine, on a network you trust", default=False
    )
    use_proxy: bool = field(
        "go through the proxy that grpc_proxy, https_proxy or http_proxy names", default=False
    )
    cloud_input: str | None = field(
        "input of a foreign engine, if its name is not the bundle's", default=None
    )
    cloud_output: str | None = field(
        "output of a foreign engine that holds class names, class indices or scores", default=None
    )
    cloud_reduce: Literal["argmax"] | None = field(
        "reduction of that output, if it holds scores", default=None
    )
    cloud_labels: Path | None = field(
        "file of the foreign engine's class names in its order, one per line", default=None
    )
    forward: Literal["original", "model_input"] = field(
        "input for the cloud: as it came, or as the bundle's graph takes it",
        default="original",
    )

    def check_cloud(self, *, has_cloud: bool) -> None:
        """Raise a `SettingError` for flags that contradict one another or would be ignored."""
        tls_flags, engine_flags = self._present(_TLS_FLAGS), self._present(_ENGINE_FLAGS)
        if tls_flags and not self.tls:
            raise SettingError(
                f"{tls_flags[0]} needs --tls: a plaintext link has neither certificate nor token"
            )
        if self.tls and self.allow_plaintext:
            raise SettingError("expected --tls or --allow-plaintext, got both: give one of them")
        for flag in (*self._present(_LINK_FLAGS), *engine_flags):
            if not has_cloud:
                raise SettingError(f"{flag} needs --cloud: name the server")
        if self.cloud_output is None and (self.cloud_reduce or self.cloud_labels):
            raise SettingError(f"{engine_flags[-1]} needs --cloud-output: name the output to read")
        self.security()  # checks the combination of certificate, key and token

    def security(self) -> Security | None:
        """Return the protection of the link; None for plaintext."""
        if not self.tls:
            return None
        from edge_runtime.cloud.security import Security

        return Security(**{name: getattr(self, name) for name in _TLS_FLAGS})

    def cloud_options(self) -> dict[str, Any]:
        """Return the flags as arguments of `Cascade.open`; reads the file of class names."""
        options: dict[str, Any] = {
            name: getattr(self, name) for name in _ENGINE_FLAGS if getattr(self, name) is not None
        }
        if self.cloud_labels is not None:
            options["cloud_labels"] = _read_labels(self.cloud_labels)
        return {
            "security": self.security(),
            "allow_plaintext": self.allow_plaintext,
            "use_proxy": self.use_proxy,
            "forward": self.forward,
            **options,
        }

    def _present(self, names: tuple[str, ...]) -> list[str]:
        return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name)]


def _read_labels(file: Path) -> tuple[str, ...]:
    try:
        return read_class_names(file)
    except (OSError, ValueError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else "not UTF-8"
        raise SettingError(
            f"expected a file of class names at {file}, one per line ({reason}): check the path"
        ) from None


@dataclass(frozen=True, kw_only=True)
class PolicyFlags(Command):
    """Flags for mode, deadlines and budget."""

    mode: Mode = field(
        "cascade: M_L answers what M_S defers; edge_only, cloud_only: one answers all",
        default="cascade",
    )
    on_cloud_failure: OnCloudFailure = field(
        "edge: M_S answers if the cloud fails; raise: the input gets an error", default="edge"
    )
    soft_deadline_s: float | None = field(
        "seconds after which M_S's answer is taken, if M_L's may come too late",
        default=None,
        above=0,
    )
    budget_calls: int | None = field(
        "most requests to the cloud in a window, for metered links; above it M_S answers",
        default=None,
        least=0,
    )
    budget_kb: float | None = field(
        "most kilobytes (1,000 bytes) sent to the cloud in a window", default=None, least=0
    )
    budget_window_s: float = field(
        "length of that window in seconds; a day by default", default=_DAY_S, above=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.policy()  # checks itself

    def policy(self, drift: DriftAlarm | None = None) -> Policy:
        """Return the policy; raise a `SettingError` for flags that contradict one another."""
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
        return DeferralBudget(
            max_calls=self.budget_calls,
            max_bytes=None if self.budget_kb is None else int(self.budget_kb * _KB),
            window_s=self.budget_window_s,
        )
