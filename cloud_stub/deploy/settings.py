"""The command line of `deploy`."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cloud_stub.deploy import instructions
from cloud_stub.deploy.kserve import SERVICE_FILE, ServiceSettings, render
from cloud_stub.deploy.model import (
    DeployedModel,
    checked_labels,
    read_bundle_model,
    read_onnx_model,
)
from cloud_stub.deploy.triton import CONFIG_FILE, LABELS_FILE, scratch_place, write_model
from cloud_stub.errors import DeployError
from edge_runtime import contract
from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError
from edge_runtime.files import fresh_folder, require_free

DEFAULT_MAX_BATCH: Final = 32
REPOSITORY: Final = "models"
_MAX_INT32: Final = 2**31 - 1
_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Of Kubernetes: RFC 1035 for a service, RFC 1123 for a namespace, and a quantity.
_SERVICE_NAME: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_QUANTITY: Final = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|[KMGTPE]i?)?")
_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*://\S+")


@dataclass(frozen=True, kw_only=True)
class DeploySettings(Command):
    """Write what Triton or KServe needs to serve a large model, and say how the edge asks it.

    Example: python -m cloud_stub deploy --target triton --bundle runs/large --out models
    """

    target: Literal["triton", "kserve"] = field("The engine: triton or kserve.")
    out: Path = field("Folder to write to: Triton's model repository, or one for KServe's files.")
    bundle: Path | None = field("Folder of an exported bundle.", default=None)
    onnx: Path | None = field("Any ONNX file instead.", default=None)
    labels: Path | None = field("Class names of --onnx in its order, one a line.", default=None)
    answer: str | None = field(
        "Output of --onnx that holds scores, class indices or names; found where only one can.",
        default=None,
    )
    model: str = field("Name that callers ask for.", default=contract.DEFAULT_MODEL)
    max_batch: int | None = field(
        f"Most rows of one run, {DEFAULT_MAX_BATCH} where not given and the graph leaves it free.",
        default=None,
    )
    overwrite: bool = field("Replace what an earlier deploy wrote.", default=False)
    storage_uri: str | None = field(
        f"KServe: where you put the folder {REPOSITORY}, e.g. s3://bucket/{REPOSITORY}.",
        default=None,
    )
    namespace: str | None = field("KServe: the namespace.", default=None)
    replicas: int | None = field("KServe: how many copies run.", default=None)
    cpu: str | None = field("KServe: cores of a copy; 1 where not given.", default=None)
    memory: str | None = field("KServe: memory of a copy; 2Gi where not given.", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_source()
        if not _MODEL_NAME.fullmatch(self.model):
            raise SettingError(
                "expected --model to begin with a letter or digit and to have only these and . _ - "
                f"after it, got {self.model!r}: rename it"
            )
        if self.max_batch is not None and not 1 <= self.max_batch <= _MAX_INT32:
            raise SettingError(f"expected --max-batch from 1 to {_MAX_INT32}, got {self.max_batch}")
        if self.target == "kserve":
            self._check_service()
        else:
            self._refuse_service_flags()

    def _check_source(self) -> None:
        if (self.bundle is None) == (self.onnx is None):
            raise SettingError("expected one of --bundle and --onnx: name the model to deploy")
        for flag, value in (("--labels", self.labels), ("--answer", self.answer)):
            if value is not None and self.onnx is None:
                raise SettingError(f"expected --onnx beside {flag}: a bundle says so itself")

    def _check_service(self) -> None:
        if self.storage_uri is None or not _URI.fullmatch(self.storage_uri):
            raise SettingError(
                f"expected --storage-uri as SCHEME://PLACE, got {self.storage_uri}: name where the "
                f"cluster will find the folder {REPOSITORY}, e.g. s3://bucket/{REPOSITORY}"
            )
        if not _SERVICE_NAME.fullmatch(self.model):
            raise SettingError(
                "expected --model as a name that Kubernetes takes (a-z, 0-9 and -, a letter first, "
                f"at most 63), got {self.model!r}: rename it"
            )
        if self.namespace is not None and not _NAMESPACE.fullmatch(self.namespace):
            raise SettingError(
                f"expected --namespace of a-z, 0-9 and -, at most 63, got {self.namespace!r}"
            )
        if self.replicas is not None and not 1 <= self.replicas <= _MAX_INT32:
            raise SettingError(f"expected --replicas of 1 or more, got {self.replicas}")
        for flag, value in (("--cpu", self.cpu), ("--memory", self.memory)):
            if value is not None and not _QUANTITY.fullmatch(value):
                raise SettingError(
                    f"expected {flag} as a quantity, e.g. 500m or 2Gi, got {value!r}"
                )

    def _refuse_service_flags(self) -> None:
        for name in ("storage_uri", "namespace", "replicas", "cpu", "memory"):
            if getattr(self, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise SettingError(f"expected --target kserve beside {flag}, got {self.target}")

    def run(self) -> None:
        """Write the files and print how the edge asks the engine.

        Raises:
            GatekeeperError: The model cannot be deployed so; nothing was written.
        """
        written = self.out / self.model if self.target == "triton" else self.out
        mark = CONFIG_FILE if self.target == "triton" else SERVICE_FILE
        require_free(written, mark=mark, overwrite=self.overwrite, error=DeployError)
        model = self._read()
        max_batch = self._max_batch(model)
        if self.target == "triton":
            with fresh_folder(written, scratch=scratch_place(written)) as fresh:
                write_model(fresh, model, self.model, max_batch)
            repository = self.out
        else:
            self._write_service(model, max_batch)
            repository = self.out / REPOSITORY
        self._report(model, written, repository / self.model / LABELS_FILE, max_batch)

    def _read(self) -> DeployedModel:
        if self.bundle is not None:
            return read_bundle_model(self.bundle)
        if self.onnx is None:
            raise ValueError("expected a bundle or an ONNX file, got neither")
        labels = () if self.labels is None else _read_labels(self.labels)
        return read_onnx_model(self.onnx, labels, self.answer)

    def _max_batch(self, model: DeployedModel) -> int:
        if self.max_batch is not None and not model.has_rows:
            tensors = "; ".join(map(str, (*model.graph.inputs, *model.outputs)))
            raise DeployError(
                "expected a graph with a free first axis of all tensors, and another axis of its "
                f"inputs, for --max-batch; {model.graph.path} has {tensors}: leave --max-batch out"
            )
        return self.max_batch or DEFAULT_MAX_BATCH

    def _write_service(self, model: DeployedModel, max_batch: int) -> None:
        settings = ServiceSettings(
            name=self.model,
            namespace=self.namespace,
            storage_uri=str(self.storage_uri),
            replicas=self.replicas,
            cpu=self.cpu or "1",
            memory=self.memory or "2Gi",
        )
        text = render(settings)
        with fresh_folder(self.out, scratch=scratch_place(self.out)) as fresh:
            folder = fresh / REPOSITORY / self.model
            folder.mkdir(parents=True)
            write_model(folder, model, self.model, max_batch)
            (fresh / SERVICE_FILE).write_text(text, encoding="utf-8")

    def _report(
        self, model: DeployedModel, written: Path, labels_file: Path, max_batch: int
    ) -> None:
        print(f"cloud_stub: wrote {written} for {self.target}")
        if self.target == "kserve":
            print(f"cloud_stub: put {self.out / REPOSITORY} at {self.storage_uri}, then")
            print(f"  kubectl apply -f {self.out / SERVICE_FILE}")
        if instructions.obstacle(model) is None:
            print("cloud_stub: the edge asks it with")
            print(instructions.command(model, self.model, labels_file))
            print("cloud_stub: or, in Python, with")
            print(instructions.call(model, self.model, labels_file))
        for note in instructions.notes(model, max_batch):
            print(f"cloud_stub: note: {note}", file=sys.stderr)


def _read_labels(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        raise DeployError(f"expected a file of labels at {file}, found none: name it")
    try:
        labels = tuple(file.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise DeployError(f"expected UTF-8 in {file}, got {error.reason}: convert it") from None
    if not labels:
        raise DeployError(f"expected a label a line in {file}, got none: write them there")
    return checked_labels(labels)
