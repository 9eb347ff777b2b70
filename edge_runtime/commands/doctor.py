"""The command `python -m edge_runtime doctor`."""

from __future__ import annotations

import importlib
import os
import platform
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final, Literal

from edge_runtime import contract
from edge_runtime.cli import field

# MERGEDOC edge_runtime/link_checks.py: 'What `doctor` finds out about the way to the cloud: clock, link, certificates.'
from edge_runtime.commands.flags import EngineFlags, LinkFlags
from edge_runtime.errors import (
    CloudMisconfiguredError,
    CloudUnavailableError,
    DependencyError,
    GatekeeperError,
    SettingError,
)
from edge_runtime.wire.address import is_loopback, split_address

_OPTIONAL = {"PIL": ("Pillow", "reading pictures", "image")}
_REQUIRED = ("numpy", "onnxruntime", "grpc", "google.protobuf")

_FEW_DAYS: Final = 30
_SLACK: Final = timedelta(days=1)
"""File systems and time zones may shift a file's date by hours."""
_HANDSHAKE_S: Final = 5.0
_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")


class DoctorError(GatekeeperError):
    """At least one check failed."""


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(EngineFlags, LinkFlags):
    """Check the installation, and a bundle and a cloud where given; say what to do.

    Example: python -m edge_runtime doctor --bundle runs/demo/bundle-tuned --cloud localhost:8001
    """

    bundle: Path | None = field("bundle folder to load and run once", default=None)
    cloud: str | None = field("host:port of the large model to ask once", default=None)
    model: str = field("the large model's name there", default=contract.DEFAULT_MODEL)
    deadline_s: float = field("longest wait for the cloud, in seconds", default=2.0)
    provider: Literal["cpu", "cuda"] = field("where the graph runs", default="cpu")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cloud is not None and self.bundle is None:
            raise SettingError(
                "expected --bundle beside --cloud, got none: its small model's question is asked"
            )
        if not self.deadline_s > 0:
            raise SettingError(f"expected --deadline-s above 0, got {self.deadline_s}")
        self.check_link(has_cloud=self.cloud is not None)
        self.check_engine(has_cloud=self.cloud is not None)

    def run(self) -> None:
        """Print one line a check; fail when one of them failed, a warning is no failure."""
        failed = 0
        for name, check in self._checks():
            try:
                print(f"ok    {name}: {check()}")
            except ConcernError as concern:
                print(f"warn  {name}: {concern}")
            except GatekeeperError as error:
                failed += 1
                print(f"FAIL  {name}: {error}")
        if failed:
            raise DoctorError(f"{failed} check(s) failed, see above for what to do")

    def _checks(self) -> Iterator[tuple[str, Callable[[], str]]]:
        yield "python", platform.python_version
        for module in _REQUIRED:
            yield module, partial(_import, module, *_required(module))
        for module, reason in _OPTIONAL.items():
            yield module, partial(_import, module, *reason)
        yield "provider", self._check_provider
        yield "clock", partial(check_clock, self.bundle)
        if self.bundle is not None:
            yield "bundle", self._check_bundle
        if self.bundle is not None and self.cloud is not None:
            yield "link", partial(check_link, self.cloud, self.deadline_s)
            yield "certificates", self._check_certificates
            yield "cloud", self._check_cloud

    def _check_provider(self) -> str:
        _import("onnxruntime", *_required("onnxruntime"))
        from edge_runtime.sessions import named, require_offered

        return ", ".join(name for name, _ in require_offered(named(self.provider)))

    def _check_bundle(self) -> str:
        _import("onnxruntime", *_required("onnxruntime"))
        from edge_runtime.edge import open_edge
        from edge_runtime.inputs import blank_input
        from edge_runtime.sessions import named

        assert self.bundle is not None  # noqa: S101 - narrows the type
        model = open_edge(self.bundle, providers=named(self.provider))
        blank = blank_input(model.metadata.input)
        rows = model.intake.one(blank)
        gated = model.run(rows, model.intake.feeds(rows))
        kind = f"{len(model.labels)} labels" if model.labels else model.metadata.task
        return (
            f"{kind}, threshold {model.threshold:.6g}, a blank input gets "
            f"confidence {float(gated.confidence[0]):.4f}"
        )

    def _check_certificates(self) -> str:
        assert self.cloud is not None  # noqa: S101 - narrows the type
        return check_certificates(self.cloud, self.security(), self.deadline_s)

    def _check_cloud(self) -> str:
        from edge_runtime.cascade import Cascade
        from edge_runtime.errors import CloudUnavailableError
        from edge_runtime.inputs import blank_input
        from edge_runtime.sessions import named

        assert self.bundle is not None  # noqa: S101 - narrows the type
        # An infinite threshold defers everything, so the one input goes all the way.
        with Cascade.open(
            self.bundle,
            cloud=self.cloud,
            model=self.model,
            deadline_s=self.deadline_s,
            threshold=float("inf"),
            providers=named(self.provider),
            **self.link_options(),
            **self.engine_options(),
        ) as cascade:
            answer = cascade(blank_input(cascade.edge.metadata.input))
        if answer.error:
            raise CloudUnavailableError(answer.error)
        return f"answered in {(answer.timings.wire_s + answer.timings.cloud_s) * 1e3:.1f} ms"


def _required(module: str) -> tuple[str, str, str]:
    return module, "the edge runtime", "cpu"


def _import(module: str, library: str, purpose: str, extra: str) -> str:
    try:
        loaded = importlib.import_module(module)
    except ImportError:
        raise DependencyError(library, purpose, extra) from None
    return str(getattr(loaded, "__version__", "present"))


if TYPE_CHECKING:
    from edge_runtime.cloud.certificates import Validity
    from edge_runtime.cloud.security import Security


class ConcernError(GatekeeperError):
    """Something works today and needs attention."""


def check_clock(bundle: Path | None) -> str:
    """Hold the device's clock to the newest file that it must be later than.

    Args:
        bundle: A bundle folder, whose date counts too.

    Raises:
        SettingError: The clock is behind.
    """
    files = [Path(__file__)] + ([] if bundle is None else [bundle / contract.BUNDLE_FILE])
    dates = {file: file.stat().st_mtime for file in files if file.exists()}
    newest = max(dates, key=lambda file: dates[file], default=None)
    now = _now()
    if newest is not None:
        date = datetime.fromtimestamp(dates[newest], UTC)
        if now < date - _SLACK:
            raise SettingError(
                f"expected a time after {date:%Y-%m-%d %H:%M} UTC, the date of {newest}, got "
                f"{now:%Y-%m-%d %H:%M} UTC: set the clock (NTP), or certificates seem not yet valid"
            )
    return f"{now:%Y-%m-%d %H:%M} UTC"


def check_link(address: str, limit_s: float) -> str:
    """Open a connection to the server and close it.

    Raises:
        CloudUnavailableError: Nobody answers there.
        ConcernError: Nobody does, but a proxy may reach it.
    """
    host, port = split_address(address)
    begin = perf_counter()
    try:
        socket.create_connection((host, port), limit_s).close()
    except OSError as error:
        proxy = next((name for name in _PROXIES if os.environ.get(name)), None)
        if proxy is not None and not is_loopback(host):
            raise ConcernError(
                f"no connection to {address} but through the proxy in {proxy}, which gRPC uses: "
                "see whether the cloud answers"
            ) from None
        raise CloudUnavailableError(
            f"expected a server at {address}, got {error.strerror or error}: check address, "
            "network and firewall, and that the server runs"
        ) from None
    return f"{address} takes connections, {(perf_counter() - begin) * 1e3:.1f} ms"


def check_certificates(address: str, security: Security | None, limit_s: float) -> str:
    """Look at both sides' certificates and at the files that hold secrets.

    Raises:
        CloudMisconfiguredError: A certificate does not fit, or one side speaks plaintext.
        CloudUnavailableError: Nobody answers there.
        SettingError: A file is missing or malformed.
        ConcernError: A certificate expires soon, or others may read a secret.
    """
    from edge_runtime.cloud.diagnosis import find_mistake, server_validity

    host, port = split_address(address)
    limit_s = min(limit_s, _HANDSHAKE_S)
    mistake = find_mistake(host, port, security, limit_s)
    if mistake is not None:
        raise CloudMisconfiguredError(f"{address}: {mistake}")
    if security is None:
        return "none, the link is in plaintext"
    server, token = server_validity(host, port, security, limit_s), security.token()
    if server is None:
        raise CloudUnavailableError(f"{address} shows no certificate: see the link above")
    dated = {"the server's certificate": server}
    client = security.client_validity()
    if client is not None:
        dated[f"client certificate {security.certificate}"] = client
    _raise_concerns(dated, security)
    found = [
        f"{name} has {validity.days_left(_now()):.0f} days" for name, validity in dated.items()
    ]
    return "; ".join([*found, *([] if token is None else [f"token from {token.source}"])])


def _raise_concerns(dated: dict[str, Validity], security: Security) -> None:
    from edge_runtime.cloud.security import exposed_advice

    concerns = [
        f"{name} has {validity.days_left(_now()):.0f} days left: renew it"
        for name, validity in dated.items()
        if validity.days_left(_now()) < _FEW_DAYS
    ]
    concerns += map(exposed_advice, security.exposed_files())
    if concerns:
        raise ConcernError("; ".join(concerns))


def _now() -> datetime:
    return datetime.now(UTC)
