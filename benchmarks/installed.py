"""The size of an installation, from what pip recorded: needs no network and no second one."""

from __future__ import annotations

import importlib.metadata
import marshal
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import edge_runtime

OURS: Final = "gatekeeper-edge"
_PACKAGES: Final = ("edge_runtime", "train", "export", "cloud_stub", "benchmarks")
_LEFT_OUT: Final = {"results", "__pycache__"}
_HEADER_BYTES: Final = 16
"""Of a compiled file, before its code."""


def installed_bytes(wanted: Iterable[str]) -> dict[str, int]:
    """Return the bytes of all distributions that an installation of some requirements holds.

    Files that pip compiled count, as they are in its records. Of this project, which may be
    installed as a link to its source, the files of the wheel count and what they compile to.

    Args:
        wanted: Requirements as pip takes them, e.g. `gatekeeper-edge[cpu]`.

    Returns:
        Bytes by the distribution's name.

    Raises:
        PackageNotFoundError: One of them is not installed here.
    """
    from packaging.requirements import Requirement  # onnxruntime and pip bring it

    waiting = [Requirement(one) for one in wanted]
    seen: set[tuple[str, frozenset[str]]] = set()
    sizes: dict[str, int] = {}
    while waiting:
        one = waiting.pop()
        extras = frozenset(one.extras)
        name = one.name.lower().replace("_", "-")
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found = importlib.metadata.distribution(name)
        sizes[name] = _own_bytes(found) if name == OURS else _recorded_bytes(found)
        for needed in map(Requirement, found.requires or []):
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras)):
                waiting.append(needed)
    return sizes


def _recorded_bytes(found: importlib.metadata.Distribution) -> int:
    files = (Path(str(entry.locate())) for entry in found.files or [])
    return sum(path.stat().st_size for path in files if path.is_file())


def _own_bytes(found: importlib.metadata.Distribution) -> int:
    root = Path(edge_runtime.__file__).parent.parent
    shipped = [
        path
        for package in _PACKAGES
        for path in sorted((root / package).rglob("*"))
        if path.is_file() and not _LEFT_OUT & set(path.relative_to(root).parts)
    ]
    metadata = (
        Path(str(entry.locate()))
        for entry in found.files or []
        if entry.parts[0].endswith(".dist-info")
    )
    return sum(path.stat().st_size for path in (*shipped, *metadata) if path.is_file()) + sum(
        _compiled_bytes(path) for path in shipped if path.suffix == ".py"
    )


def _compiled_bytes(source: Path) -> int:
    code = compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
    return _HEADER_BYTES + len(marshal.dumps(code))
