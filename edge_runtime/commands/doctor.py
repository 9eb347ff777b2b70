"""The command `python -m edge_runtime doctor`."""

from __future__ import annotations

import importlib
import os
import platform
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final, Literal

from edge_runtime import contract
from edge_runtime.cli import field
from edge_runtime.commands.flags import CloudFlags
from edge_runtime.commands.limits import limited
from edge_runtime.errors import (
    CloudMisconfiguredError,
    CloudUnavailableError,
    DependencyError,
    GatekeeperError,
    SettingError,
)
from edge_runtime.files import clean, one_line
from edge_runtime.wire.address import is_loopback, split_address

if TYPE_CHECKING:
    from edge_runtime.cloud.certificates import Validity
    from edge_runtime.cloud.security import Security

_REQUIRED: Final = ("numpy", "onnxruntime", "grpc", "google.protobuf")
_OPTIONAL: Final = {
    "PIL": DependencyError("Pillow", "reading files of pictures", "image"),
    "tokenizers": DependencyError("tokenizers", "a bundle that takes texts", "text"),
}
"""What only some inputs need; the check of a bundle fails where that bundle needs it."""
_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
_FEW_DAYS: Final = 30
_CLOCK_TOLERANCE: Final = timedelta(days=1)
"""File systems and time zones may shift a file's date by hours."""
_HANDSHAKE_S: Final = 5.0


class DoctorError(GatekeeperError):
    """At least one check failed."""


class ConcernError(GatekeeperError):
    """Something works today but needs attention."""


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(CloudFlags, does="edge_runtime.commands.doctor:check_installation"):
    """Check the installation, and a bundle and a cloud if named; print what to fix.

    Example: python -m edge_runtime doctor --bundle runs/demo/bundle-tuned --cloud localhost:8001
    """

    bundle: Path | None = field("bundle folder to load and run once", default=None, word=True)
    cloud: str | None = field("host:port of the large model, which gets one input", default=None)
    model: str = field("name of the large model on its server", default=contract.DEFAULT_MODEL)
    deadline_s: float = field(
        "time limit for the cloud in seconds; generous, so that a slow cloud passes",
        default=2.0,
        above=0,
    )
    bundle_limit_s: float = field(
        "seconds that the bundle may take to load and to run once", default=300.0, above=0
    )
    provider: Literal["cpu", "cuda"] = field(
        "device of the small model; cuda needs the extra gpu", default="cpu"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cloud is not None and self.bundle is None:
            raise SettingError(
                "--cloud needs --bundle: the check sends a request with the bundle's model"
            )
        self.check_cloud(has_cloud=self.cloud is not None)


def check_installation(settings: DoctorSettings) -> None:
    """Print one line per check; raise a `DoctorError` for failures, not for warnings."""
    failed = 0
    for name, check in _checks(settings):
        try:
            print(f"ok    {name}: {one_line(check())}")
        except ConcernError as concern:
            print(f"warn  {name}: {one_line(concern)}")
        except GatekeeperError as error:
            failed += 1
            print(f"FAIL  {name}: {one_line(error)}")
    if failed:
        raise DoctorError(f"{failed} check(s) failed: the lines above say what to do")


def _checks(settings: DoctorSettings) -> Iterator[tuple[str, Callable[[], str]]]:
    bundle, cloud = settings.bundle, settings.cloud
    yield "python", platform.python_version
    for module in _REQUIRED:
        yield module, partial(_import, module)
    for module, missing in _OPTIONAL.items():
        yield module, partial(_import_optional, module, missing)
    yield "provider", partial(_check_provider, settings.provider)
    yield "clock", partial(check_clock, bundle)
    if bundle is not None:
        yield "bundle", partial(_check_bundle, bundle, settings)
    if bundle is not None and cloud is not None:
        yield "link", partial(check_link, cloud, settings.deadline_s, use_proxy=settings.use_proxy)
        yield (
            "certificates",
            lambda: check_certificates(cloud, settings.security(), settings.deadline_s),
        )
        yield "cloud", partial(_check_cloud, bundle, settings)


def _import_optional(module: str, missing: DependencyError) -> str:
    """Return the version; raise a `ConcernError` where the module is missing."""
    try:
        return _import(module)
    except DependencyError:
        raise ConcernError(str(missing)) from None


def _import(module: str) -> str:
    """Import a module and return its version."""
    try:
        loaded = importlib.import_module(module)
    except ImportError:
        raise DependencyError(module, "the edge runtime", "cpu") from None
    return str(getattr(loaded, "__version__", "present"))


def _check_provider(provider: str) -> str:
    _import("onnxruntime")
    from edge_runtime.sessions import require_offered, select_providers

    return ", ".join(name for name, _ in require_offered(select_providers(provider)))


def _check_bundle(bundle: Path, settings: DoctorSettings) -> str:
    """Load a bundle and run it once, within limits: it may come from anyone."""
    _import("onnxruntime")
    # CUDA takes far more address space than memory.
    size = None if settings.provider == "cuda" else _size(bundle)
    line = (
        f"FAIL  bundle: expected {clean(str(bundle))} to load and run within "
        f"{settings.bundle_limit_s:g} s, it did not: do not use it, or raise --bundle-limit-s"
    )
    with limited(size, settings.bundle_limit_s, line):
        return _load_and_run(bundle, settings.provider)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _load_and_run(bundle: Path, provider: str) -> str:
    from edge_runtime.edge import open_edge
    from edge_runtime.inputs.batches import blank_input
    from edge_runtime.sessions import select_providers

    model = open_edge(bundle, providers=select_providers(provider))
    rows = model.reader.single(blank_input(model.metadata.input))
    result = model.run(rows, model.reader.feeds(rows))
    kind = f"{len(model.labels)} labels" if model.labels else model.metadata.task
    return (
        f"{kind}, threshold {model.threshold:.6g}, a blank input gets "
        f"confidence {float(result.confidence[0]):.4f}"
    )


def _check_cloud(bundle: Path, settings: DoctorSettings) -> str:
    from edge_runtime.cascade import Cascade
    from edge_runtime.inputs.batches import blank_input
    from edge_runtime.sessions import select_providers

    with Cascade.open(
        bundle,
        cloud=settings.cloud,
        model=settings.model,
        deadline_s=settings.deadline_s,
        threshold=float("inf"),  # defers every input
        providers=select_providers(settings.provider),
        **settings.cloud_options(),
    ) as cascade:
        answer = cascade(blank_input(cascade.edge.metadata.input))
    if answer.error:
        raise CloudUnavailableError(answer.error)
    return f"answered in {(answer.timings.wire_s + answer.timings.cloud_s) * 1e3:.1f} ms"


def check_clock(bundle: Path | None) -> str:
    """Compare the device's clock with the newest file, which must be older.

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
        date = datetime.fromtimestamp(dates[newest], timezone.utc)
        if now < date - _CLOCK_TOLERANCE:
            raise SettingError(
                f"expected a time after {date:%Y-%m-%d %H:%M} UTC, the date of {newest}, got "
                f"{now:%Y-%m-%d %H:%M} UTC: set the clock (NTP), or certificates seem not yet valid"
            )
    return f"{now:%Y-%m-%d %H:%M} UTC"


def check_link(address: str, limit_s: float, *, use_proxy: bool = False) -> str:
    """Open a connection to the server and close it.

    Raises:
        CloudUnavailableError: Nothing answers at the address.
        ConcernError: Nothing answers directly, but a proxy may reach the server.
    """
    host, port = split_address(address)
    start = perf_counter()
    try:
        socket.create_connection((host, port), limit_s).close()
    except OSError as error:
        proxy = next((name for name in _PROXIES if os.environ.get(name)), None)
        if use_proxy and proxy is not None and not is_loopback(host):
            raise ConcernError(
                f"no direct connection to {address}, gRPC uses the proxy in {proxy}: see below "
                "whether the cloud answers"
            ) from None
        raise CloudUnavailableError(
            f"expected a server at {address}, got {error.strerror or error}: check address, "
            "network and firewall, and that the server runs"
        ) from None
    return f"{address} takes connections, {(perf_counter() - start) * 1e3:.1f} ms"


def check_certificates(address: str, security: Security | None, limit_s: float) -> str:
    """Check both sides' certificates and the files that hold secrets.

    Raises:
        CloudMisconfiguredError: A certificate is wrong, or only one side uses TLS.
        CloudUnavailableError: Nothing answers at the address.
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
    validities = {"the server's certificate": server}
    client = security.client_validity()
    if client is not None:
        validities[f"client certificate {security.certificate}"] = client
    _raise_concerns(validities, security)
    lines = [
        f"{name} has {validity.days_left(_now()):.0f} days" for name, validity in validities.items()
    ]
    return "; ".join([*lines, *([] if token is None else [f"token from {token.source}"])])


def _raise_concerns(validities: dict[str, Validity], security: Security) -> None:
    from edge_runtime.cloud.security import exposed_advice

    concerns = [
        f"{name} has {validity.days_left(_now()):.0f} days left: renew it"
        for name, validity in validities.items()
        if validity.days_left(_now()) < _FEW_DAYS
    ]
    concerns += map(exposed_advice, security.exposed_files())
    if concerns:
        raise ConcernError("; ".join(concerns))


def _now() -> datetime:
    return datetime.now(timezone.utc)
