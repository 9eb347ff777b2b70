"""The command line of the server, and the file that names several models."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from cloud_stub.model_settings import SourceSettings
from cloud_stub.scheduling.batcher import Limits
from edge_runtime.cli import field
from edge_runtime.errors import SettingError
from edge_runtime.wire.address import MAX_PORT, is_loopback, split_address

if TYPE_CHECKING:
    from cloud_stub.operations.security import ServerSecurity

_MOST_THREADS: Final = 4096
_LONGEST: Final = 200
_MOST_MESSAGE_MIB: Final = 2047  # gRPC counts bytes in 31 bits


@dataclass(frozen=True, kw_only=True)
class ModelSettings(SourceSettings):
    """One model: exactly one of checkpoint, bundle, onnx and upstream.

    Raises:
        SettingError: Something is out of range or contradicts something else.
    """

    cloud: str = field(
        "HOST:PORT that a --bundle asks for what it is unsure of (a middle tier).", default=""
    )
    cloud_deadline: float = field("Longest wait for --cloud, in seconds.", default=0.5)
    cloud_tls: bool = field("Speak TLS to --cloud.", default=False)
    cloud_ca: Path | None = field(
        "PEM file of the authorities that may vouch for --cloud, instead of the system's.",
        default=None,
    )
    cloud_certificate: Path | None = field(
        "PEM file of the client certificate to show to --cloud.", default=None
    )
    cloud_key: Path | None = field("PEM file of its key.", default=None)
    cloud_token_file: Path | None = field(
        "File that holds the bearer token for --cloud.", default=None
    )
    cloud_plaintext: bool = field(
        "Send inputs to --cloud unencrypted though it is another machine.", default=False
    )
    threads: int = field("Threads of the model; 0 leaves it to the library.", default=0)
    max_batch: int = field("Rows of one batch.", default=32)
    max_delay_ms: float = field(
        "How long a batch that is not full waits for more; 0: an idle model never waits.",
        default=0.0,
    )
    max_queue: int = field("Calls that may wait; one more is refused.", default=128)
    stall: float = field(
        "Seconds after which a batch that says nothing counts as hanging.", default=60.0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cloud and self.bundle is None:
            raise SettingError("expected a --bundle with --cloud: only a gated graph asks onward")
        self._check_onward_link()
        if not 0 <= self.threads <= _MOST_THREADS:
            raise SettingError(f"expected --threads from 0 to {_MOST_THREADS}, got {self.threads}")
        if not (math.isfinite(self.cloud_deadline) and self.cloud_deadline > 0):
            raise SettingError(
                f"expected --cloud-deadline as seconds over 0, got {self.cloud_deadline}"
            )
        if not self.model:
            raise SettingError("expected --model to be non-empty")
        if not self.model.isprintable():
            raise SettingError(
                f"expected --model without control characters, got {_shown(self.model)}"
            )
        self.limits()

    def onward_link(self) -> dict[str, Any]:
        """Return how the link to `cloud` is protected, as `Cascade.open` takes it.

        Raises:
            SettingError: A file of it is missing, or they contradict one another.
        """
        if not self.cloud_tls:
            return {"allow_plaintext": self.cloud_plaintext}
        from edge_runtime.cloud.security import Security

        security = Security(
            ca=self.cloud_ca,
            certificate=self.cloud_certificate,
            key=self.cloud_key,
            token_file=self.cloud_token_file,
        )
        return {"security": security}

    def _check_onward_link(self) -> None:
        names = ("cloud_ca", "cloud_certificate", "cloud_key", "cloud_token_file")
        secrets = [name for name in names if getattr(self, name) is not None]
        if secrets and not self.cloud_tls:
            raise SettingError(
                f"expected --cloud-tls beside --{secrets[0].replace('_', '-')}, got none: in "
                "plaintext there is neither certificate nor token"
            )
        if self.cloud_tls and self.cloud_plaintext:
            raise SettingError("expected --cloud-tls or --cloud-plaintext, got both")
        if (self.cloud_tls or self.cloud_plaintext) and not self.cloud:
            raise SettingError("expected --cloud beside what protects its link, got none")
        is_protected = self.cloud_tls or self.cloud_plaintext
        if self.cloud and not (is_protected or is_loopback(split_address(self.cloud)[0])):
            raise SettingError(
                f"expected --cloud-tls for {self.cloud}, which is another machine, or "
                "--cloud-plaintext on a network you trust, got neither"
            )

    def limits(self) -> Limits:
        """Return how much is worked on at once, and how long anything waits.

        Raises:
            SettingError: One of them is out of range.
        """
        return Limits(
            max_batch=self.max_batch,
            max_delay_s=self.max_delay_ms / 1e3,
            max_queue=self.max_queue,
            stall_s=self.stall,
        )


@dataclass(frozen=True, kw_only=True)
class ServeSettings(ModelSettings):
    """Serve large models over the Open Inference Protocol until SIGTERM or Ctrl-C.

    Example: python -m cloud_stub --checkpoint runs/demo/large --port 8001
    """

    models: Path | None = field(
        "TOML file of several models instead: a [[model]] table each, with the flags above as keys "
        "(max_batch = 8).",
        default=None,
    )
    port: int = field("TCP port; 0 takes a free one and names it.", default=8001)
    host: str = field(
        "Address to listen on; beyond loopback set --certificate and --token-file or --client-ca.",
        default="127.0.0.1",
    )
    certificate: Path | None = field("PEM file of the server's certificate: TLS.", default=None)
    key: Path | None = field("PEM file of its private key, not encrypted.", default=None)
    client_ca: Path | None = field(
        "PEM file of the authorities whose certificate every client must present.", default=None
    )
    token_file: Path | None = field(
        "File of bearer tokens, one a line, of which every call must bring one.", default=None
    )
    max_message_mib: int = field("Largest request and answer.", default=64)
    max_memory_mib: int = field(
        "What all calls in the server may hold together, decoded pictures included.", default=1024
    )
    grace: float = field("Seconds that calls in flight may take after SIGTERM.", default=10.0)
    metrics_port: int | None = field(
        "TCP port of /metrics for Prometheus; 0 takes a free one. None is opened unless given.",
        default=None,
    )
    metrics_host: str = field(
        "Address of /metrics, whatever --host is: it is plaintext to all.", default="127.0.0.1"
    )
    log: Literal["text", "json"] = field("Form of the log on standard error.", default="text")
    log_level: Literal["debug", "info", "warning", "error"] = field(
        "Least serious of what is logged; answered calls are debug.", default="info"
    )

    def __post_init__(self) -> None:
        if self.models is None:
            super().__post_init__()
        elif own := [
            f"--{one.name.replace('_', '-')}"
            for one in dataclasses.fields(ModelSettings)
            if getattr(self, one.name) != one.default
        ]:
            # They would be ignored in silence.
            raise SettingError(
                f"expected --models or one model's own flags, got {', '.join(own)} beside it: put "
                "them into the file"
            )
        for name, port in (("--port", self.port), ("--metrics-port", self.metrics_port)):
            if port is not None and not 0 <= port <= MAX_PORT:
                raise SettingError(f"expected {name} from 0 to {MAX_PORT}, got {port}")
        self.security()
        if not (math.isfinite(self.grace) and self.grace >= 0):
            raise SettingError(f"expected --grace as seconds of 0 or more, got {self.grace}")
        if not (self.host and self.metrics_host):
            raise SettingError("expected --host and --metrics-host to be non-empty")
        if not 1 <= self.max_message_mib <= _MOST_MESSAGE_MIB:
            raise SettingError(
                f"expected --max-message-mib from 1 to {_MOST_MESSAGE_MIB}, got "
                f"{self.max_message_mib}"
            )
        if self.max_memory_mib < self.max_message_mib:
            raise SettingError(
                f"expected --max-memory-mib of at least one message ({self.max_message_mib}), got "
                f"{self.max_memory_mib}"
            )

    def security(self) -> ServerSecurity:
        """Return who may call and what protects the link.

        Raises:
            SettingError: The settings contradict one another.
        """
        from cloud_stub.operations.security import ServerSecurity

        return ServerSecurity(
            certificate=self.certificate,
            key=self.key,
            client_ca=self.client_ca,
            token_file=self.token_file,
        )

    def each_model(self) -> list[ModelSettings]:
        """Return the models to serve.

        Raises:
            SettingError: The file of models is missing or malformed.
        """
        return [self] if self.models is None else read_models(self.models)

    def run(self) -> None:
        """Serve until a signal asks to stop.

        Raises:
            ListenError: The address cannot be listened on.
            GatekeeperError: A model cannot be opened.
        """
        from cloud_stub import server

        server.run(self)


def read_models(path: Path) -> list[ModelSettings]:
    """Read a file of models; paths in it are relative to its folder.

    Raises:
        SettingError: It is missing or malformed, or two models share a name.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"expected a TOML file of models in {path}: {error}") from None
    found = tables.get("model")
    is_list = isinstance(found, list) and all(isinstance(table, dict) for table in found)
    if tables.keys() != {"model"} or not is_list or not found:
        raise SettingError(
            f"expected [[model]] tables and nothing else in {path}, got "
            f"{', '.join(map(_shown, tables))[:_LONGEST] or 'none'}"
        )
    models = [_read_model(table, f"{path}, model {n}", path) for n, table in enumerate(found, 1)]
    names = [settings.model for settings in models]
    if doubles := ", ".join(sorted({_shown(name) for name in names if names.count(name) > 1})):
        raise SettingError(f"expected models of different names in {path}, got {doubles} again")
    return models


def _read_model(table: Mapping[str, Any], where: str, path: Path) -> ModelSettings:
    fields = {one.name: one for one in dataclasses.fields(ModelSettings)}
    unknown = sorted(table.keys() - fields.keys())
    if unknown:
        raise SettingError(
            f"expected keys of {', '.join(fields)} in {where}, got {_shown(unknown[0])}"
        )
    values: dict[str, Any] = {}
    for name, value in table.items():
        if fields[name].default is None:  # the paths
            if not isinstance(value, str) or not value or "\0" in value:
                raise SettingError(f"expected {name} in {where} as a path, got {_shown(value)}")
            values[name] = path.parent / value
            continue
        kind = type(fields[name].default)
        is_number = kind is float and type(value) is int
        if type(value) is not kind and not is_number:
            raise SettingError(
                f"expected {name} in {where} as {kind.__name__}, got {_shown(value)}"
            )
        values[name] = value
    try:
        return ModelSettings(**values)
    except SettingError as error:
        raise SettingError(f"{where}: {error}") from None


def _shown(value: object) -> str:
    """Return a value of the file as an error message shows it: in one line, cut short."""
    return repr(value)[:_LONGEST]
