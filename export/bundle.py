"""Writes bundles: the gated graph, and `bundle.json` with the same metadata and every hash."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import onnx

from edge_runtime import contract
from edge_runtime.bundle import file_sha256
from edge_runtime.contract import GateMetadata
from export.errors import OutputError

GRAPH_FILE = "model.onnx"


def toolkit_version() -> str:
    """Return the version of gatekeeper-edge, or `unknown` where it is not installed."""
    try:
        return importlib.metadata.version("gatekeeper-edge")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def require_free(path: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` where the folder holds something and may not be replaced."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())) and not overwrite:
        raise OutputError(f"expected nothing at {path} yet: --overwrite replaces it")


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
) -> None:
    """Write a bundle in one step: a failure or a kill leaves the old one as it was.

    Args:
        path: The folder; an older one is replaced.
        model: The gated graph.
        metadata: What it says of itself.
        verification: What the export measured.
        others: Further files of the bundle, copied beside the graph.
    """
    set_metadata(model, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        (fresh / GRAPH_FILE).write_bytes(model.SerializeToString(deterministic=True))
        for file in others:
            shutil.copy2(file, fresh / file.name)
        record = {
            "graphs": {contract.ROLE_CLASSIFIER: GRAPH_FILE},
            "metadata": json.loads(metadata.to_json()),
            "files": {f.name: file_sha256(f) for f in sorted(fresh.iterdir())},
            "verification": verification,
        }
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        (fresh / contract.BUNDLE_FILE).write_text(text, encoding="utf-8")
        if path.exists():
            shutil.move(path, Path(scratch) / "old")
        fresh.rename(path)
