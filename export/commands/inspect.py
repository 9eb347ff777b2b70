"""The command `python -m export inspect`: what a bundle is, and what its threshold means."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime import contract
from edge_runtime.bundle import Bundle, read_bundle, role_of
from edge_runtime.cli import field
from edge_runtime.contract import SecondLook
from edge_runtime.errors import BundleError
from export.wording import describe_calibration


@dataclass(frozen=True, kw_only=True)
class InspectSettings:
    """Say in words what a bundle holds and what its threshold means.

    Example: python -m export inspect --bundle bundle
    """

    bundle: Path = field("bundle folder")
    json: bool = field("print the metadata as JSON", default=False)

    def run(self) -> None:
        """Check the hashes and print."""
        bundle = read_bundle(self.bundle, role_of(self.bundle))
        if self.json:
            print(json.dumps(json.loads(bundle.metadata.to_json()), indent=2, ensure_ascii=False))
        else:
            print("\n".join(describe(bundle)))


def describe(bundle: Bundle) -> list[str]:
    """Return the lines that `inspect` prints."""
    gate = bundle.metadata
    low, high = gate.confidence_range
    is_decoder = gate.task == contract.TASK_GENERATION
    lines = [
        f"{gate.task}, {'' if is_decoder else _labels(gate.labels)}"
        f"gate contract version {gate.contract_version}, made by {gate.toolkit_version}",
        f"input: {gate.input.name} {gate.input.dtype} {list(gate.input.shape)}",
        f"confidence: {gate.confidence_kind}, from {low:.6g} to {high:.6g}",
        f"threshold: {gate.threshold:.9g}; an {'answer' if is_decoder else 'input'} under it (or "
        "NaN) is deferred",
        f"size: {_size_bytes(bundle) / 1e6:.2f} MB in {len(bundle.others) + 1} files",
    ]
    if is_decoder:
        # Here, so that a picture's bundle needs no tokenizers.
        from export.decoding.description import describe_decoder

        lines += describe_decoder(bundle)
    if contract.QUANTIZATION in gate.extra:
        lines.append(f"quantized: {gate.extra[contract.QUANTIZATION]}; the gate is float32")
    if gate.second_look is not None:
        lines += _second_look(gate.second_look)
    if contract.DEFERRAL_HEAD in gate.extra:
        lines.append(f"deferral head: {_fitted_on(gate.extra[contract.DEFERRAL_HEAD])}")
    record = gate.calibration
    if record is None:
        return [*lines, "the threshold was set by hand: nothing is known of its deferral ratio"]
    try:
        return [*lines, *describe_calibration(record)]
    except (KeyError, TypeError, ValueError, IndexError):  # another toolkit's record
        return [*lines, f"calibration: {json.dumps(record, ensure_ascii=False)}"]


def _labels(labels: tuple[str, ...]) -> str:
    return f"{len(labels)} labels ({', '.join(labels[:5])}, ...), "


def _size_bytes(bundle: Bundle) -> int:
    return sum(file.stat().st_size for file in (bundle.graph, *bundle.others))


def _fitted_on(record: Any) -> str:
    try:
        return (
            f"fitted on {record['n']} inputs ({record['split']} of {record['data']}); on "
            f"{record['gained']} of them M_L ({record['large']}) is right and M_S wrong"
        )
    except (KeyError, TypeError):  # another toolkit's
        return json.dumps(record, ensure_ascii=False)


def _second_look(described: dict[str, Any]) -> list[str]:
    try:
        look = SecondLook.from_fields(described)
    except BundleError:  # another toolkit's
        return [f"second look: {json.dumps(described, ensure_ascii=False)}"]
    cost = (
        f"{look.share:.1%} of the calibration inputs needed it, {1 + look.share:.2f} passes an "
        "input on average"
    )
    return [
        f"second look: {_who(look)} runs through the model twice, the second time as {look.view} "
        "view; its confidence is the mean of both views' probabilities of the first's prediction",
        f"cost: {'two passes an input' if look.is_of_every_input else cost}",
    ]


def _who(look: SecondLook) -> str:
    if look.is_of_every_input:
        return "every input"
    who = "an input whose first confidence is"
    if look.low is None:
        return f"{who} at most {look.high:.6g}"
    if look.high is None:
        return f"{who} at least {look.low:.6g}"
    return f"{who} from {look.low:.6g} to {look.high:.6g}"
