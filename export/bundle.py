"""Writes bundles: the gated graph, and `bundle.json` with the same metadata and every hash."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from edge_runtime import contract
from edge_runtime.bundle import file_sha256
from edge_runtime.contract import GateMetadata
from export.errors import OutputError, WriteError
from export.graphs import serialized

# MERGEDOC export/replace.py: "Puts a folder in another's place in one step."

GRAPH_FILE = "model.onnx"

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def toolkit_version() -> str:
    """Return the version of gatekeeper-edge, or `unknown` where it is not installed."""
    try:
        return importlib.metadata.version("gatekeeper-edge")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def require_free(path: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, an output folder that the bundle could not go to.

    Raises:
        OutputError: It holds something, and is no bundle or may not be replaced.
        WriteError: It could not be written.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"expected a folder or nothing at {path}, a file is there: name another")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise OutputError(f"expected nothing at {path} yet: --overwrite replaces it")
        if not (path / contract.BUNDLE_FILE).is_file():
            raise OutputError(
                f"expected a bundle at {path} to replace, got a folder of other things: name "
                "another folder"
            )
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise WriteError(
            f"expected a folder that can be written at {parent}, got none: change its permissions "
            "or name another"
        )


def set_metadata(model: onnx.ModelProto, metadata: GateMetadata) -> None:
    """Write the metadata into the graph, in place."""
    kept = [p for p in model.metadata_props if p.key != contract.METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    entry = model.metadata_props.add()
    entry.key, entry.value = contract.METADATA_KEY, metadata.to_json()


def write_bundle(
    path: Path,
    model: onnx.ModelProto,
    metadata: GateMetadata,
    verification: dict[str, Any],
    *,
    others: tuple[Path, ...] = (),
    hashes: Mapping[str, str] | None = None,
    role: str = contract.ROLE_CLASSIFIER,
) -> None:
    """Write a bundle in one step: a failure or a kill leaves the old one as it was.

    Args:
        path: The folder; an older one is replaced.
        model: The gated graph.
        metadata: What it says of itself.
        verification: What the export measured.
        others: Further files of the bundle, placed beside the graph; where the file system can,
            as another name of the same bytes, which nobody writes to.
        hashes: sha256 of the others by name, where they are known.
        role: What the graph is.

    Raises:
        WriteError: No space or permission; nothing was written.
    """
    set_metadata(model, metadata)
    record = {
        "graphs": {role: GRAPH_FILE},
        "metadata": json.loads(metadata.to_json()),
        "verification": verification,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
            fresh = Path(scratch) / "fresh"
            _write_files(fresh, model, record, others, hashes or {})
            replace_folder(path, fresh)
    except OSError as error:
        raise WriteError(
            f"expected to write a bundle at {path}, got {error.strerror or error}: nothing was "
            "written, make room or name another folder"
        ) from None


def _write_files(
    fresh: Path,
    model: onnx.ModelProto,
    record: dict[str, Any],
    others: tuple[Path, ...],
    hashes: Mapping[str, str],
) -> None:
    fresh.mkdir()
    (fresh / GRAPH_FILE).write_bytes(serialized(model))
    for file in others:
        _place(file, fresh / file.name)
    known = {file.name: hashes[file.name] for file in others if file.name in hashes}
    files = {
        file.name: known.get(file.name) or file_sha256(file) for file in sorted(fresh.iterdir())
    }
    text = json.dumps({**record, "files": files}, indent=2, ensure_ascii=False) + "\n"
    (fresh / contract.BUNDLE_FILE).write_text(text, encoding="utf-8")


def _place(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def replace_folder(path: Path, fresh: Path) -> None:
    """Move `fresh` to `path`; what was there stands at `fresh` afterwards.

    On Linux the two are exchanged in one step, so that a kill at any moment leaves either of them
    whole at `path`. Elsewhere there is a moment without any.

    Raises:
        OSError: They could not be moved; `path` is as it was.
    """
    if not path.exists():
        fresh.rename(path)
    elif not exchange(path, fresh):
        move_aside(path, fresh)


def move_aside(path: Path, fresh: Path) -> None:
    """Let the two change places by renaming; an error or Ctrl-C puts `path` back."""
    aside = fresh.with_name(f"{fresh.name}-old")
    path.rename(aside)
    try:
        fresh.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    aside.rename(fresh)


def exchange(one: Path, other: Path) -> bool:
    """Return whether the system exchanged the two; not every system or file system can."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "renameat2"):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return bool(libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
