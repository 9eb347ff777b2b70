"""The command `python -m edge_runtime doctor`."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from edge_runtime import contract
from edge_runtime.cli import field
from edge_runtime.engine_flags import EngineFlags
from edge_runtime.errors import DependencyError, GatekeeperError, SettingError
from edge_runtime.link_checks import ConcernError, check_certificates, check_clock, check_link
from edge_runtime.link_flags import LinkFlags

_OPTIONAL = {"PIL": ("Pillow", "reading pictures", "image")}
_REQUIRED = ("numpy", "onnxruntime", "grpc", "google.protobuf")


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
        from edge_runtime.providers import named, require_offered

        return ", ".join(name for name, _ in require_offered(named(self.provider)))

    def _check_bundle(self) -> str:
        _import("onnxruntime", *_required("onnxruntime"))
        from edge_runtime.edge import open_edge
        from edge_runtime.intake import blank_input
        from edge_runtime.providers import named

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
        from edge_runtime.intake import blank_input
        from edge_runtime.providers import named

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
