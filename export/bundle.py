"""Writes bundles: the gated graph, and `bundle.json` with the same metadata and every hash."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from edge_runtime import contract
from edge_runtime.bundle import file_sha256
from edge_runtime.contract import GateMetadata
from edge_runtime.files import fresh_folder, place, require_free
from export.errors import OutputError, WriteError
from export.graphs import serialized

GRAPH_FILE = "model.onnx"


def toolkit_version() -> str:
    """Return the version of gatekeeper-edge, or `unknown` where it is not installed."""
    try:
        return importlib.metadata.version("gatekeeper-edge")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def require_writable(path: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, an output folder that the bundle could not go to.

    Raises:
        OutputError: It holds something, and is no bundle or may not be replaced.
        WriteError: It could not be written.
    """
    require_free(path, overwrite=overwrite, error=OutputError, mark=contract.BUNDLE_FILE)
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
        with fresh_folder(path) as fresh:
            _write_files(fresh, model, record, others, hashes or {})
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
    (fresh / GRAPH_FILE).write_bytes(serialized(model))
    for file in others:
        place(file, fresh / file.name)
    known = {file.name: hashes[file.name] for file in others if file.name in hashes}
    files = {
        file.name: known.get(file.name) or file_sha256(file) for file in sorted(fresh.iterdir())
    }
    text = json.dumps({**record, "files": files}, indent=2, ensure_ascii=False) + "\n"
    (fresh / contract.BUNDLE_FILE).write_text(text, encoding="utf-8")
