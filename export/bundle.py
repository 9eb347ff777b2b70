"""Writes bundles: the gated graph, and `bundle.json` with the same metadata and every hash."""

from __future__ import annotations

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
from export.graphs import serialize

GRAPH_FILE = "model.onnx"


def require_writable(path: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, an output folder that cannot take the bundle.

    Raises:
        OutputError: The folder holds something that may not be replaced.
        WriteError: The folder cannot be written.
    """
    require_free(path, overwrite=overwrite, error=OutputError, mark=contract.BUNDLE_FILE)
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise WriteError(
            f"expected a writable folder at {parent}, got none: change its permissions or name "
            "another"
        )


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
    """Write a bundle in one step: after a failure or a kill the old one is unchanged.

    Args:
        path: The folder; an existing one is replaced.
        model: The gated graph.
        metadata: The description of the gate; written into the graph as well.
        verification: The figures that the export measured.
        others: Further files of the bundle, placed beside the graph; hard links where the file
            system allows them, because nobody writes to these files.
        hashes: sha256 of the others by name, where known.
        role: The role of the graph in the bundle.

    Raises:
        WriteError: There is no space or no permission; nothing was written.
    """
    kept = [p for p in model.metadata_props if p.key != contract.METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=contract.METADATA_KEY, value=metadata.to_json())
    record = {
        "graphs": {role: GRAPH_FILE},
        "metadata": json.loads(metadata.to_json()),
        "verification": verification,
    }
    known = {file.name: (hashes or {}).get(file.name) for file in others}
    try:
        with fresh_folder(path) as fresh:
            (fresh / GRAPH_FILE).write_bytes(serialize(model))
            for file in others:
                place(file, fresh / file.name)
            files = {
                file.name: known.get(file.name) or file_sha256(file)
                for file in sorted(fresh.iterdir())
            }
            text = json.dumps({**record, "files": files}, indent=2, ensure_ascii=False) + "\n"
            (fresh / contract.BUNDLE_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise WriteError(
            f"expected to write a bundle at {path}, got {error.strerror or error}: nothing was "
            "written, make room or name another folder"
        ) from None
