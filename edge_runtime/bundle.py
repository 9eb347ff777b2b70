"""Reads a bundle folder: `bundle.json`, the graph it names, and their hashes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime import contract
from edge_runtime.errors import BundleError


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were found whole.

    Attributes:
        path: The folder.
        graph: The classifier graph's file.
        metadata: The gate's metadata.
        verification: What the export measured of itself.
    """

    path: Path
    graph: Path
    metadata: contract.GateMetadata
    verification: dict[str, Any]


def read_bundle(path: Path | str) -> Bundle:
    """Read and check a bundle folder; nothing of it is loaded as a model.

    Raises:
        BundleError: The folder or a file is missing, altered, truncated or outside the folder.
        ContractVersionError: The contract version is unknown.
    """
    folder = Path(path)
    record = _read_record(folder)
    metadata = contract.GateMetadata.from_json(json.dumps(record.get("metadata")))
    for name, digest in _section(record, "files").items():
        _check_file(folder, name, digest)
    graph = _section(record, "graphs").get(contract.ROLE_CLASSIFIER)
    if not isinstance(graph, str) or graph not in record["files"]:
        raise BundleError(
            f"expected a graph with the role {contract.ROLE_CLASSIFIER!r} and its hash in "
            f"{folder / contract.BUNDLE_FILE}, got {graph!r}: export the bundle again"
        )
    return Bundle(folder, folder / graph, metadata, record.get("verification") or {})


def file_sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_record(folder: Path) -> dict[str, Any]:
    file = folder / contract.BUNDLE_FILE
    if not file.is_file():
        raise BundleError(
            f"expected a bundle folder with {contract.BUNDLE_FILE}, found none at {folder}: "
            "make one with `python -m export --checkpoint DIR --out BUNDLE`"
        )
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{file} is not JSON ({error}): export the bundle again") from None
    if not isinstance(record, dict):
        raise BundleError(f"expected a JSON object in {file}, got {type(record).__name__}")
    return record


def _section(record: dict[str, Any], name: str) -> dict[str, Any]:
    section = record.get(name)
    if not isinstance(section, dict):
        raise BundleError(f"expected the section {name!r} in bundle.json, got {section!r}")
    return section


def _check_file(folder: Path, name: str, digest: object) -> None:
    file = folder / name
    # A bundle from elsewhere must not make the runtime open files beside it.
    if not file.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"bundle file {name!r} lies outside its folder: refused")
    if not file.is_file():
        raise BundleError(f"bundle file {file} is missing: copy or export the bundle again")
    if file_sha256(file) != digest:
        raise BundleError(
            f"bundle file {file} was altered or truncated (its sha256 differs from "
            f"{contract.BUNDLE_FILE}): copy or export the bundle again"
        )
