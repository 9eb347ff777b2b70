"""The command `python -m export inspect`: what a bundle is, and what its threshold means."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.bundle import Bundle, read_bundle
from edge_runtime.cli import field


@dataclass(frozen=True, kw_only=True)
class InspectSettings:
    """Say in words what a bundle holds and what its threshold means.

    Example: python -m export inspect --bundle bundle
    """

    bundle: Path = field("bundle folder")
    json: bool = field("print the metadata as JSON", default=False)

    def run(self) -> None:
        """Check the hashes and print."""
        bundle = read_bundle(self.bundle)
        if self.json:
            print(json.dumps(json.loads(bundle.metadata.to_json()), indent=2, ensure_ascii=False))
        else:
            print("\n".join(describe(bundle)))


def describe(bundle: Bundle) -> list[str]:
    """Return the lines that `inspect` prints."""
    gate = bundle.metadata
    low, high = gate.confidence_range
    lines = [
        f"{gate.task}, {len(gate.labels)} labels ({', '.join(gate.labels[:5])}, ...), "
        f"gate contract version {gate.contract_version}, made by {gate.toolkit_version}",
        f"input: {gate.input.name} {gate.input.dtype} {list(gate.input.shape)}",
        f"confidence: {gate.confidence_kind}, from {low:.6g} to {high:.6g}",
        f"threshold: {gate.threshold:.9g}; an input under it (or NaN) is deferred",
    ]
    record = gate.calibration
    if record is None:
        return [*lines, "the threshold was set by hand: nothing is known of its deferral ratio"]
    try:
        return [*lines, *_calibration(record)]
    except (KeyError, TypeError, ValueError, IndexError):  # another toolkit's record
        return [*lines, f"calibration: {json.dumps(record, ensure_ascii=False)}"]


def _calibration(record: dict[str, Any]) -> list[str]:
    return [
        f"it was chosen to defer at most {record['target']:.1%} of {record['n']} inputs "
        f"({record['split']} of {record['data']}), and defers {record['achieved']:.1%} of them",
        f"on as many fresh inputs of the same kind expect {record['interval'][0]:.1%} to "
        f"{record['interval'][1]:.1%} deferred ({record['interval_level']:.0%} interval)",
    ]
