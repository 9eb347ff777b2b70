"""The command line of the server, and the file that lists several models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cloud_stub.model_settings import ModelSettings
from cloud_stub.operations.security import ServerSecurity
from edge_runtime.cli import Command, field
from edge_runtime.cli.command import flag_name, renamed
from edge_runtime.errors import SettingError
from edge_runtime.reading import read_toml
from edge_runtime.wire.address import MAX_PORT

_SHOWN: Final = 200
_MOST_MESSAGE_MIB: Final = 2047  # gRPC counts bytes in 31 bits


@dataclass(frozen=True, kw_only=True)
class ServeSettings(ModelSettings, does="cloud_stub.server:serve"):
    """Serve large models over the Open Inference Protocol until SIGTERM or Ctrl-C.

    Example: python -m cloud_stub --checkpoint runs/demo/large --port 8001
    """

    models: Path | None = field(
        "TOML file of several models to serve instead: one [[model]] table each, with the flags of "
        "a model as keys (max_batch = 8)",
        default=None,
    )
    port: int = field(
        "TCP port; 0 takes a free one and prints it", default=8001, within=(0, MAX_PORT)
    )
    host: str = field(
        "address to listen on; beyond loopback set --certificate and --token-file or --client-ca",
        default="127.0.0.1",
    )
    certificate: Path | None = field(
        "PEM file of the server's certificate; turns on TLS", default=None
    )
    key: Path | None = field(
        "PEM file of the private key of --certificate, not encrypted", default=None
    )
    client_ca: Path | None = field(
        "PEM file of the authorities that must have signed every client's certificate", default=None
    )
    token_file: Path | None = field(
        "file of bearer tokens, one per line; every call must carry one of them", default=None
    )
    max_message_mib: int = field(
        "largest request or answer, in MiB", default=16, within=(1, _MOST_MESSAGE_MIB)
    )
    max_memory_mib: int = field(
        "most memory of all calls together, in MiB, including decoded pictures", default=1024
    )
    max_connections: int = field(
        "most connections at once; further ones are closed as they come", default=10_000, least=1
    )
    grace_s: float = field(
        "seconds that calls in flight may still take after SIGTERM",
        default=10.0,
        least=0,
        aliases=("grace",),
    )
    metrics_port: int | None = field(
        "TCP port of /metrics for Prometheus; 0 takes a free one; not served if not given",
        default=None,
        within=(0, MAX_PORT),
    )
    metrics_host: str = field(
        "address of /metrics, independent of --host; anyone who reaches it can read them",
        default="127.0.0.1",
    )
    log: Literal["text", "json"] = field(
        "form of the log on standard error: text for people, json for programs", default="text"
    )
    log_level: Literal["debug", "info", "warning", "error"] = field(
        "lowest level to log; answered calls are logged at debug", default="info"
    )

    def __post_init__(self) -> None:
        if self.models is None:
            super().__post_init__()
        else:
            Command.__post_init__(self)
            self._refuse_model_flags()
        self.security()
        if not (self.host and self.metrics_host):
            raise SettingError("expected --host and --metrics-host to be non-empty")
        if self.max_memory_mib < self.max_message_mib:
            raise SettingError(
                f"expected --max-memory-mib to hold a message ({self.max_message_mib}), got "
                f"{self.max_memory_mib}"
            )

    def _refuse_model_flags(self) -> None:
        own = [
            flag_name(item)
            for item in dataclasses.fields(ModelSettings)
            if getattr(self, item.name) != item.default
        ]
        if own:
            raise SettingError(
                f"expected --models or the flags of one model, got both ({', '.join(own)}): put "
                "them into the file"
            )

    def security(self) -> ServerSecurity:
        """Return the protection of the server's calls.

        Raises:
            SettingError: The settings contradict one another.
        """
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


def read_models(path: Path) -> list[ModelSettings]:
    """Read a file of models; its paths are relative to its folder.

    Raises:
        SettingError: It is missing or malformed, or two models have the same name.
    """
    try:
        tables = read_toml(path)
    except (OSError, ValueError) as error:
        raise SettingError(f"expected a TOML file of models in {path}: {error}") from None
    content = tables.get("model")
    is_list = isinstance(content, list) and all(isinstance(table, dict) for table in content)
    if tables.keys() != {"model"} or not is_list or not content:
        raise SettingError(
            f"expected [[model]] tables and nothing else in {path}, got "
            f"{', '.join(map(_show, tables))[:_SHOWN] or 'none'}"
        )
    models = [_read_model(table, f"{path}, model {n}", path) for n, table in enumerate(content, 1)]
    names = [settings.model for settings in models]
    if doubles := ", ".join(sorted({_show(name) for name in names if names.count(name) > 1})):
        raise SettingError(f"expected models with different names in {path}, got {doubles} twice")
    return models


def _read_model(table: Mapping[str, Any], where: str, path: Path) -> ModelSettings:
    fields = {item.name: item for item in dataclasses.fields(ModelSettings)}
    earlier = renamed(ModelSettings)
    table = {earlier.get(name, name): value for name, value in table.items()}
    unknown = sorted(table.keys() - fields.keys())
    if unknown:
        raise SettingError(
            f"expected keys of {', '.join(fields)} in {where}, got {_show(unknown[0])}"
        )
    values: dict[str, Any] = {}
    for name, value in table.items():
        if fields[name].default is None:  # the paths
            if not isinstance(value, str) or not value or "\0" in value:
                raise SettingError(f"expected {name} in {where} as a path, got {_show(value)}")
            values[name] = path.parent / value
            continue
        kind = type(fields[name].default)
        is_number = kind is float and type(value) is int
        if type(value) is not kind and not is_number:
            raise SettingError(f"expected {name} in {where} as {kind.__name__}, got {_show(value)}")
        values[name] = value
    try:
        return ModelSettings(**values)
    except SettingError as error:
        raise SettingError(f"{where}: {error}") from None


def _show(value: object) -> str:
    """Return a value of the file for an error message: on one line, cut short."""
    return repr(value)[:_SHOWN]
