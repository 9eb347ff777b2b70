"""The hardware, versions, revision and command of a measurement."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_TOOLKIT = "gatekeeper-edge"
_LIBRARIES = (
    _TOOLKIT,
    "numpy",
    "onnxruntime",
    "grpcio",
    "protobuf",
    "torch",
    "transformers",
    "onnx",
)
_TIMEOUT_S = 10.0


def toolkit_version() -> str:
    """Return the version of gatekeeper-edge, or `unknown` if it is not installed."""
    try:
        return importlib.metadata.version(_TOOLKIT)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def versions() -> str:
    """Return one line for this toolkit, Python and each installed library that matters."""
    found = {_TOOLKIT: toolkit_version(), "python": platform.python_version(), **_versions()}
    return "\n".join(f"{name} {version}" for name, version in found.items())


def describe(module: str) -> dict[str, Any]:
    """Return the facts needed to repeat a measurement of `python -m module`."""
    return {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "git_revision": _revision(),
        "hardware": hardware(),
        "python": platform.python_version(),
        "versions": _versions(),
    }


def hardware() -> dict[str, Any]:
    """Return processor, usable cores, memory and NVIDIA GPUs."""
    memory, cores = 0, os.cpu_count()
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return {
        "processor": _processor(),
        "machine": platform.machine(),
        "cores": cores,
        "memory_gib": round(memory / 2**30, 1),
        "gpus": _gpus(),
        "system": platform.system(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _gpus() -> list[str]:
    """Return the names of NVIDIA GPUs as the driver lists them: a device has no other library."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return []  # the tool is there, the driver is not
    return [name.strip() for name in done.stdout.splitlines() if name.strip()]


def _versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # a device lacks most
            versions[name] = importlib.metadata.version(name)
    return versions


def _revision() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
