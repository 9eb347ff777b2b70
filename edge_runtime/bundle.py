"""Reads a bundle folder: `bundle.json`, the graph it names, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from edge_runtime import contract
from edge_runtime.errors import BundleError
from edge_runtime.files import repair
from edge_runtime.names import what_is
from edge_runtime.onnx_file import scan_onnx
from edge_runtime.reading import open_regular, read_json

_PART = 2**18
_AGAIN = "copy or export the bundle again"
_MOST_GRAPH: Final = 2**31 - 1  # bytes of a protobuf message
_COMMANDS = {
    contract.ROLE_CLASSIFIER: "`python -m edge_runtime run`",
    contract.ROLE_DECODER: "`python -m edge_runtime generate`",
}


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files passed their checks.

    Attributes:
        path: The folder.
        graph: The file of the requested graph.
        metadata: The gate's metadata.
        verification: The measurements of the export's own verification.
        others: Further files of the bundle, external data for example.
        hashes: sha256 of each file by its name, from `bundle.json`.
        content: The bytes of the graph that were hashed and checked; empty in a model that is open.
        is_whole: Whether the graph holds all its weights.
        states: The state of each file while it was hashed.
    """

    path: Path
    graph: Path
    metadata: contract.GateMetadata
    verification: dict[str, Any]
    others: tuple[Path, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    content: bytes = field(default=b"", repr=False)
    is_whole: bool = True
    states: Mapping[Path, tuple[int, ...]] = field(default_factory=dict, repr=False)

    def require_unchanged(self) -> None:
        """Raise a `BundleError` where a file that is opened by its name is not the one hashed.

        These are weights with their graph, and tokenizers; a whole graph is loaded from `content`.
        Asked for once they are open.
        """
        for file, state in self.states.items():
            if self.is_whole and file == self.graph:
                continue
            try:
                is_same = _state(file.stat()) == state
            except OSError:
                is_same = False
            if not is_same:
                raise BundleError(
                    f"bundle file {file} was replaced or altered while it was opened: open the "
                    "bundle again"
                )


def read_bundle(path: Path | str, role: str = contract.ROLE_CLASSIFIER) -> Bundle:
    """Read and check a bundle folder, without loading it as a model.

    Args:
        path: The folder.
        role: Role of the requested graph.

    Raises:
        BundleError: The folder or a file is missing, altered, truncated, not listed or outside the
            folder, or the graph contradicts `bundle.json`.
        ContractVersionError: The contract version is unknown.
    """
    folder = Path(path)
    try:
        if not folder.exists():
            repair(folder)
        return _read(folder, role)
    except OSError as error:
        reason = error.strerror or error
        raise BundleError(
            f"expected a readable bundle at {folder}, got {reason} at {error.filename}: {_AGAIN}"
        ) from None


def role_of(path: Path | str) -> str:
    """Return the role of a bundle's graph; classifier where the bundle does not name one."""
    try:
        record = read_json(Path(path) / contract.BUNDLE_FILE)
        graphs = record["graphs"]
    except (OSError, ValueError, KeyError, TypeError):
        return contract.ROLE_CLASSIFIER  # `read_bundle` raises the error
    is_decoder = isinstance(graphs, dict) and contract.ROLE_DECODER in graphs
    return contract.ROLE_DECODER if is_decoder else contract.ROLE_CLASSIFIER


def file_sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes."""
    with open_regular(path) as file:
        return _sha256(file)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while part := file.read(_PART):
        digest.update(part)
    return digest.hexdigest()


def _state(status: os.stat_result) -> tuple[int, ...]:
    """Return what differs once a file was written or replaced, even if its times were set back."""
    # The time of the last change cannot be set; on Windows it is that of the creation.
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_size, *times


def _read(folder: Path, role: str) -> Bundle:
    record = _read_record(folder)
    metadata = contract.GateMetadata.from_json(json.dumps(record.get("metadata")))
    files = _section(record, "files")
    verification = _section(record, "verification") if record.get("verification") else {}
    graphs = _section(record, "graphs")
    name = graphs.get(role)
    _check_paths(folder, files)
    content, states = _check_hashes(folder, files, name)
    if name is None and (known := graphs.keys() & _COMMANDS.keys()):
        other = min(known)
        raise BundleError(
            f"expected a {role} in {folder}, got a {other} for {metadata.task}: "
            f"{_COMMANDS[other]} takes it"
        )
    if not isinstance(name, str) or name not in files:
        raise BundleError(
            f"expected a graph with the role {role!r} and its hash in "
            f"{folder / contract.BUNDLE_FILE}, got {name!r}: export the bundle again"
        )
    is_whole = _check_graph(folder, name, content, metadata, files)
    others = tuple(folder / other for other in files if other != name)
    return Bundle(
        folder,
        folder / name,
        metadata,
        verification,
        others,
        files,
        content=content,
        is_whole=is_whole,
        states=states,
    )


def _read_record(folder: Path) -> dict[str, Any]:
    file = folder / contract.BUNDLE_FILE
    if not file.is_file():
        raise BundleError(
            f"expected a bundle folder with {contract.BUNDLE_FILE}, at {folder} is "
            f"{what_is(folder)}: make a bundle with `python -m export --checkpoint DIR --out "
            "BUNDLE`"
        )
    try:
        record = read_json(file)
    except ValueError as error:
        raise BundleError(f"{file} is not JSON ({error}): export the bundle again") from None
    if not isinstance(record, dict):
        raise BundleError(
            f"expected a JSON object in {file}, got {type(record).__name__}: export it again"
        )
    return record


def _section(record: dict[str, Any], name: str) -> dict[str, Any]:
    section = record.get(name)
    if not isinstance(section, dict):
        raise BundleError(
            f"expected the section {name!r} in {contract.BUNDLE_FILE}, got {section!r}: {_AGAIN}"
        )
    return section


def _check_paths(folder: Path, files: dict[str, Any]) -> None:
    for name in files:  # all paths before the first byte is read
        _check_path(folder, name)
    extra = _unlisted_file(folder, files)
    if extra:
        raise BundleError(
            f"expected the files that {contract.BUNDLE_FILE} lists, {folder} also holds {extra}: "
            f"move it elsewhere, or {_AGAIN}"
        )


def _check_hashes(
    folder: Path, files: dict[str, Any], graph: object
) -> tuple[bytes, dict[Path, tuple[int, ...]]]:
    """Return the bytes of the graph, and the states of all files."""
    content, states = b"", {}
    for name, expected in files.items():
        path = folder / name
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            states[path] = _state(status)
            if name == graph:  # room is made for all that is asked for
                content = file.read(min(status.st_size, _MOST_GRAPH))
                digest = hashlib.sha256(content).hexdigest()
            else:
                digest = _sha256(file)
        if digest != expected:
            raise BundleError(
                f"bundle file {path} was altered or truncated (its sha256 differs from "
                f"{contract.BUNDLE_FILE}): {_AGAIN}"
            )
    return content, states


def _check_path(folder: Path, name: str) -> None:
    # A bundle from elsewhere must not make the runtime open files outside its folder.
    if "\0" in name or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise BundleError(
            f"bundle file {name!r} lies outside its folder: refused, copy the file itself there "
            "(`cp -rL` follows links) and export the bundle again"
        )
    if not (folder / name).is_file():
        raise BundleError(f"bundle file {folder / name} is missing: {_AGAIN}")


def _unlisted_file(folder: Path, files: dict[str, Any]) -> str | None:
    """Return a file without a hash; hidden ones belong to desktops and file shares."""
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        known = name.as_posix() in files or name.as_posix() == contract.BUNDLE_FILE
        if not (hidden or known or file.is_dir()):
            return name.as_posix()
    return None


def _check_graph(
    folder: Path,
    name: str,
    content: bytes,
    metadata: contract.GateMetadata,
    files: Iterable[str],
) -> bool:
    """Check the graph against `bundle.json`; return whether it holds all its weights."""
    graph = folder / name
    header = scan_onnx(content, graph)
    text = header.metadata.get(contract.METADATA_KEY)
    if text is None:
        raise BundleError(f"{graph} has no gate metadata: export it with `python -m export`")
    if contract.GateMetadata.from_json(text) != metadata:
        raise BundleError(
            f"the metadata in {graph} and {contract.BUNDLE_FILE} differ: export the bundle again"
        )
    for location in header.external:
        # A graph names its weights from its own folder, `bundle.json` all files from the bundle's.
        if posixpath.join(posixpath.dirname(name), location) not in files:
            raise BundleError(
                f"{graph} takes weights from {location!r}, which {contract.BUNDLE_FILE} does not "
                "list: refused, export the bundle again"
            )
    return not header.external
