"""The command line of `deploy`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edge_runtime import contract
from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

DEFAULT_MAX_BATCH: Final = 32
REPOSITORY: Final = "models"
_MAX_INT32: Final = 2**31 - 1
_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Kubernetes: RFC 1035 for a service, RFC 1123 for a namespace, and a quantity.
_SERVICE_NAME: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_QUANTITY: Final = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|[KMGTPE]i?)?")
_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*://\S+")


@dataclass(frozen=True, kw_only=True)
class DeploySettings(Command, does="cloud_stub.deploy.deployment:deploy"):
    """Write the files by which Triton or KServe serves a large model, and print how to ask it.

    Example: python -m cloud_stub deploy --target triton --bundle runs/large --out models
    """

    target: Literal["triton", "kserve"] = field("the engine")
    out: Path = field("folder to write: Triton's model repository, or one for KServe's files")
    bundle: Path | None = field("folder of an exported bundle", default=None)
    onnx: Path | None = field("any ONNX file instead", default=None)
    labels: Path | None = field(
        "text file with the class names of --onnx in its order, one per line", default=None
    )
    answer: str | None = field(
        "output of --onnx with scores, class indices or names; needed only if several could be it",
        default=None,
    )
    model: str = field("name of the model in requests", default=contract.DEFAULT_MODEL)
    max_batch: int | None = field(
        f"most rows of one run, if the graph leaves them free; {DEFAULT_MAX_BATCH} if not given",
        default=None,
        within=(1, _MAX_INT32),
    )
    overwrite: bool = field("replace what an earlier deploy wrote", default=False)
    storage_uri: str | None = field(
        f"kserve: place that you upload the folder {REPOSITORY} to, e.g. s3://bucket/{REPOSITORY}",
        default=None,
    )
    namespace: str | None = field(
        "kserve: namespace of the service; kubectl's own if not given", default=None
    )
    replicas: int | None = field(
        "kserve: number of copies; KServe's choice if not given",
        default=None,
        within=(1, _MAX_INT32),
    )
    cpu: str | None = field("kserve: cores of a copy, e.g. 500m; 1 if not given", default=None)
    memory: str | None = field("kserve: memory of a copy; 2Gi if not given", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.bundle is None) == (self.onnx is None):
            raise SettingError("expected one of --bundle and --onnx: name the model to deploy")
        for flag, value in (("--labels", self.labels), ("--answer", self.answer)):
            if value is not None and self.onnx is None:
                raise SettingError(f"{flag} needs --onnx: a bundle has its own")
        if not _MODEL_NAME.fullmatch(self.model):
            raise SettingError(
                "expected --model to begin with a letter or digit and to continue with these and "
                f". _ -, got {self.model!r}: rename it"
            )
        if self.target == "kserve":
            self._check_service()
        else:
            self._refuse_service_flags()

    def _check_service(self) -> None:
        if self.storage_uri is None or not _URI.fullmatch(self.storage_uri):
            raise SettingError(
                f"expected --storage-uri as SCHEME://PLACE, got {self.storage_uri}: name the place "
                f"of the folder {REPOSITORY} for the cluster, e.g. s3://bucket/{REPOSITORY}"
            )
        if not _SERVICE_NAME.fullmatch(self.model):
            raise SettingError(
                "expected --model as a name that Kubernetes accepts (a-z, 0-9 and -, a letter "
                f"first, at most 63 characters), got {self.model!r}: rename it"
            )
        if self.namespace is not None and not _NAMESPACE.fullmatch(self.namespace):
            raise SettingError(
                "expected --namespace of a-z, 0-9 and -, at most 63 characters, got "
                f"{self.namespace!r}"
            )
        for flag, value in (("--cpu", self.cpu), ("--memory", self.memory)):
            if value is not None and not _QUANTITY.fullmatch(value):
                raise SettingError(
                    f"expected {flag} as a quantity, e.g. 500m or 2Gi, got {value!r}"
                )

    def _refuse_service_flags(self) -> None:
        for name in ("storage_uri", "namespace", "replicas", "cpu", "memory"):
            if getattr(self, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise SettingError(f"{flag} needs --target kserve, got {self.target}")
