"""Measures what the runtime costs a device: disk space, memory, and time to start."""

from __future__ import annotations

import importlib.metadata
import marshal
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

import edge_runtime
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure
from benchmarks.processes import NOT_COUNTED, last_line, resident_bytes

_SIZE_MB: Final = 210.0
_MEMORY_MB: Final = 75.0
_START_S: Final = 0.6
_IMPORT: Final = 1.2
_BARE: Final = ("numpy", "onnxruntime", "grpcio")
# Each prints a line after its first answer and then waits, so that its memory can be read.
_END: Final = "print('answered', flush=True)\ninput()\n"
_OUR_EDGE: Final = f"""
import sys, numpy
from edge_runtime import Cascade
cascade = Cascade.open(sys.argv[1], threshold=-numpy.inf)
cascade(numpy.zeros((32, 32, 3), numpy.uint8))
{_END}"""
_OUR_CLOUD: Final = _OUR_EDGE.replace("sys.argv[1],", "sys.argv[1], cloud='127.0.0.1:8001',")
_BARE_EDGE: Final = f"""
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", options)
session.run(None, {{"image": numpy.zeros((1, 32, 32, 3), numpy.uint8)}})
{_END}"""
_BARE_CLOUD: Final = _BARE_EDGE.replace(
    "options =", "import grpc; channel = grpc.insecure_channel('127.0.0.1:8001')\noptions =", 1
)
_OUR_IMPORT: Final = f"import edge_runtime; edge_runtime.Cascade\n{_END}"
_BARE_IMPORT: Final = f"import numpy, onnxruntime, grpc\n{_END}"

OURS: Final = "gatekeeper-edge"
_PACKAGES: Final = ("edge_runtime", "train", "export", "cloud_stub", "benchmarks")
_NOT_SHIPPED: Final = {"results", "__pycache__"}
_HEADER_BYTES: Final = 16
"""Size of a compiled file's header, before its code."""


class _Start(NamedTuple):
    """A process that answered once: the time until then, and its resident memory."""

    start_s: float
    resident_mb: float | None


def measure_footprint(bundle: Path, starts: int) -> list[Figure]:
    """Measure the installed size, and fresh processes until their first answer.

    Args:
        bundle: Bundle of a SmallCNN for pictures of 32 x 32.
        starts: Processes of each kind.
    """
    codes = (_OUR_EDGE, _BARE_EDGE, _OUR_CLOUD, _BARE_CLOUD, _OUR_IMPORT, _BARE_IMPORT)
    medians = _medians(codes, bundle, starts)
    edge, bare_edge, cloud, bare_cloud, ours, bare = (medians[code] for code in codes)
    return [
        _installed_size(),
        _memory("memory after one SmallCNN answer", edge, bare_edge, "onnxruntime"),
        _memory("memory after one answer, cloud set", cloud, bare_cloud, "onnxruntime + grpc"),
        _start("start to first answer", edge, bare_edge, "onnxruntime"),
        _start("start to first answer, cloud set", cloud, bare_cloud, "onnxruntime + grpc"),
        Figure(
            "import of Cascade / numpy, onnxruntime, grpc",
            ours.start_s / bare.start_s,
            _IMPORT,
            "x",
            f"{ours.start_s:.3f} and {bare.start_s:.3f} s, from the start of the process",
        ),
    ]


def _installed_size() -> Figure:
    name = "installed size with [cpu]"
    try:
        ours, bare = installed_bytes([f"{OURS}[cpu]"]), installed_bytes(_BARE)
    except importlib.metadata.PackageNotFoundError as error:
        return Figure(name, None, _SIZE_MB, "MB", f"{error.name} is not installed here")
    own_mb = ours[OURS] / 1e6
    return Figure(
        name,
        sum(ours.values()) / 1e6,
        _SIZE_MB,
        "MB",
        f"{len(ours)} distributions, {own_mb:.1f} MB ours, compiled files included; bare "
        f"{' + '.join(_BARE)} {sum(bare.values()) / 1e6:.1f} MB",
    )


def _memory(name: str, ours: _Start, bare: _Start, peer: str) -> Figure:
    if ours.resident_mb is None or bare.resident_mb is None:
        return Figure(name, None, _MEMORY_MB, "MB", NOT_COUNTED)
    detail = f"resident; bare {peer} {bare.resident_mb:.1f} MB with the same graph"
    return Figure(name, ours.resident_mb, _MEMORY_MB, "MB", detail)


def _start(name: str, ours: _Start, bare: _Start, peer: str) -> Figure:
    detail = f"fresh process; bare {peer} {bare.start_s:.3f} s with the same graph"
    return Figure(name, ours.start_s, _START_S, "s", detail)


def _medians(codes: tuple[str, ...], bundle: Path, starts: int) -> dict[str, _Start]:
    """Start the programs in turn; the first turn fills the system's caches and does not count."""
    turns = [{code: _start_once(code, bundle) for code in codes} for _ in range(starts + 1)][1:]
    return {code: _median([turn[code] for turn in turns]) for code in codes}


def _median(starts: list[_Start]) -> _Start:
    resident = [start.resident_mb for start in starts if start.resident_mb is not None]
    return _Start(
        statistics.median(start.start_s for start in starts),
        statistics.median(resident) if resident else None,
    )


def _start_once(code: str, bundle: Path) -> _Start:
    start = perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(bundle)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None  # noqa: S101 - narrows the type
        line = process.stdout.readline()
        start_s = perf_counter() - start
        resident = resident_bytes(process.pid)
        _, errors = process.communicate("\n")
    if not line:
        raise BenchmarkError(f"a process ended before its first answer: {last_line(errors)}")
    return _Start(start_s, None if resident is None else resident / 1e6)


def installed_bytes(requirements: Iterable[str]) -> dict[str, int]:
    """Return the bytes of all distributions that an installation of some requirements holds.

    The sizes come from pip's records and include the files that pip compiled; nothing is
    downloaded. This project may be installed as a link to its source: it counts with the files of
    its wheel and what they compile to.

    Args:
        requirements: Requirements in pip's form, e.g. `gatekeeper-edge[cpu]`.

    Returns:
        Bytes by name of the distribution.

    Raises:
        PackageNotFoundError: One of them is not installed here.
    """
    from packaging.requirements import Requirement  # onnxruntime and pip bring it

    waiting = [Requirement(one) for one in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    sizes: dict[str, int] = {}
    while waiting:
        requirement = waiting.pop()
        extras = frozenset(requirement.extras)
        name = requirement.name.lower().replace("_", "-")
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        distribution = importlib.metadata.distribution(name)
        own = name == OURS
        sizes[name] = _own_bytes(distribution) if own else _recorded_bytes(distribution)
        for needed in map(Requirement, distribution.requires or []):
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras)):
                waiting.append(needed)
    return sizes


def _recorded_bytes(distribution: importlib.metadata.Distribution) -> int:
    files = (Path(str(entry.locate())) for entry in distribution.files or [])
    return sum(path.stat().st_size for path in files if path.is_file())


def _own_bytes(distribution: importlib.metadata.Distribution) -> int:
    root = Path(edge_runtime.__file__).parent.parent
    shipped = [
        path
        for package in _PACKAGES
        for path in sorted((root / package).rglob("*"))
        if path.is_file() and not _NOT_SHIPPED & set(path.relative_to(root).parts)
    ]
    metadata = (
        Path(str(entry.locate()))
        for entry in distribution.files or []
        if entry.parts[0].endswith(".dist-info")
    )
    return sum(path.stat().st_size for path in (*shipped, *metadata) if path.is_file()) + sum(
        _compiled_bytes(path) for path in shipped if path.suffix == ".py"
    )


def _compiled_bytes(source: Path) -> int:
    code = compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
    return _HEADER_BYTES + len(marshal.dumps(code))
