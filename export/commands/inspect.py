"""The command `python -m export inspect`, which explains a bundle and its threshold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime import contract
from edge_runtime.bundle import Bundle, read_bundle, role_of
from edge_runtime.cli import Command, field
from edge_runtime.contract import SecondLook
from edge_runtime.errors import BundleError
from edge_runtime.files import clean
from edge_runtime.inputs.texts import open_tokenizer, tokenizer_file
from export.verification import quantization_summary

Record = Mapping[str, Any]
_NOTES = {
    "head": "head: ",
    "columns": "columns of the input, in order: ",
    "rows_at_once": "rows that the graph takes at once (a batch is run row by row): ",
}
_OTHER_TOOLKIT = (KeyError, TypeError, ValueError, IndexError)
"""Errors of records that another toolkit wrote in its own form."""
_NUMBER_BYTES = 4  # caches are float32, whatever the weights are


@dataclass(frozen=True, kw_only=True)
class InspectSettings(Command, does="export.commands.inspect:inspect"):
    """Describe a bundle, what its threshold means, and which data it was chosen on.

    Example: python -m export inspect runs/demo/bundle-tuned
    """

    bundle: Path = field("bundle folder", word=True)
    json: bool = field("print the metadata as JSON", default=False)


def inspect(settings: InspectSettings) -> None:
    """Check the hashes of a bundle, and print its description."""
    bundle = read_bundle(settings.bundle, role_of(settings.bundle))
    if settings.json:
        print(json.dumps(json.loads(bundle.metadata.to_json()), indent=2))
    else:
        print("\n".join(map(clean, describe(bundle))))


def describe(bundle: Bundle) -> list[str]:
    """Return the lines that `inspect` prints."""
    gate = bundle.metadata
    low, high = gate.confidence_range
    is_decoder = gate.task == contract.TASK_GENERATION
    labels = f"{len(gate.labels)} labels ({', '.join(gate.labels[:5])}, ...), "
    size = sum(file.stat().st_size for file in (bundle.graph, *bundle.others))
    lines = [
        f"{gate.task}, {'' if is_decoder else labels}"
        f"gate contract version {gate.contract_version}, made by {gate.toolkit_version}",
        f"input: {gate.input.name} {gate.input.dtype} {list(gate.input.shape)}",
        f"confidence: {gate.confidence_kind}, from {low:.6g} to {high:.6g}",
        f"threshold: {gate.threshold:.9g}; an {'answer' if is_decoder else 'input'} below it (or "
        "NaN) is deferred",
        f"size: {size / 1e6:.2f} MB in {len(bundle.others) + 1} files",
    ]
    if is_decoder:
        lines += _describe_decoder(bundle)
    lines += [f"{words}{gate.extra[key]}" for key, words in _NOTES.items() if key in gate.extra]
    if contract.QUANTIZATION in gate.extra:
        lines.append(f"quantized: {gate.extra[contract.QUANTIZATION]}; the gate is float32")
    if gate.second_look is not None:
        lines += _describe_look(gate.second_look)
    if contract.DEFERRAL_HEAD in gate.extra:
        lines.append(f"deferral head: {_describe_head(gate.extra[contract.DEFERRAL_HEAD])}")
    record = gate.calibration
    if record is None:
        return [*lines, "the threshold was set by hand: its deferral ratio is unknown"]
    try:
        return [*lines, *describe_calibration(record)]
    except _OTHER_TOOLKIT:
        return [*lines, f"calibration: {json.dumps(record, ensure_ascii=False)}"]


def _describe_head(record: Any) -> str:
    try:
        return (
            f"fitted on {record['n']} inputs ({record['split']} of {record['data']}); on "
            f"{record['gained']} of them M_L ({record['large']}) is right and M_S wrong"
        )
    except _OTHER_TOOLKIT:
        return json.dumps(record, ensure_ascii=False)


def _describe_look(described: dict[str, Any]) -> list[str]:
    try:
        look = SecondLook.from_fields(described)
    except BundleError:  # from another toolkit
        return [f"second look: {json.dumps(described, ensure_ascii=False)}"]
    cost = (
        f"{look.share:.1%} of the calibration inputs needed it, {1 + look.share:.2f} passes per "
        "input on average"
    )
    return [
        f"second look: {_looked_at(look)} runs through the model twice, the second time as "
        f"{look.view} view; its confidence is the mean of both views' probabilities of the first "
        "view's prediction",
        f"cost: {'two passes per input' if look.is_of_every_input else cost}",
    ]


def _looked_at(look: SecondLook) -> str:
    if look.is_of_every_input:
        return "every input"
    inputs = "an input whose first confidence is"
    if look.low is None:
        return f"{inputs} at most {look.high:.6g}"
    if look.high is None:
        return f"{inputs} at least {look.low:.6g}"
    return f"{inputs} from {look.low:.6g} to {look.high:.6g}"


def describe_calibration(record: Record) -> list[str]:
    """Return lines that explain what a threshold means; raise one of `_OTHER_TOOLKIT`."""
    low, high = record["interval"]
    return [
        *_GOALS[record["goal"]](record),
        f"it defers {record['achieved']:.1%} of {record['n']} inputs ({record['split']} of "
        f"{record['data']}); of the same number of fresh inputs of this kind expect {low:.1%} to "
        f"{high:.1%} deferred ({record['interval_level']:.0%} interval)",
    ]


def _target_deferral(record: Record) -> list[str]:
    return [f"it was chosen to defer at most {record['target']:.1%} of the inputs"]


def _target_accuracy(record: Record) -> list[str]:
    answered, right = record["answered"], record["right"]
    return [
        f"it was chosen so that at least {record['target']:.1%} of M_S's answers are right: "
        f"{right} of {answered} are; for fresh inputs this is no guarantee (--max-risk gives one)"
    ]


def _max_risk(record: Record) -> list[str]:
    return [
        f"guarantee: with probability {1 - record['delta']:g} over the calibration data, at most "
        f"{record['target']:.2%} of M_S's answers are wrong",
        f"it rests on {record['answered']} answered inputs with {record['wrong']} errors (p = "
        f"{record['p_value']:.2g}); {_basis(record)}",
    ]


def _max_harm(record: Record) -> list[str]:
    return [
        f"guarantee: with probability {1 - record['delta']:g} over the calibration data, the "
        f"accuracy of the cascade is at most {record['target']:.2%} below that of M_L alone",
        f"it rests on {record['answered']} answered inputs: on {record['lost']} of them only M_L "
        f"is right, on {record['won']} only M_S (upper bound {record['upper_bound']:.2%}); "
        f"{_basis(record)}",
    ]


def _basis(record: Record) -> str:
    reused = (
        "the same inputs also decided when training stopped, so strictly the guarantee holds only "
        "for a model made without them; "
    )
    return (reused if record.get("reused") else "") + (
        f"{record['method']}, {record['ordered_by']} inputs to order the thresholds and "
        f"{record['tested_on']} to test them; void for inputs of another kind and for another "
        "threshold"
    )


def _least_cost(record: Record) -> list[str]:
    large = "with M_L's own errors" if record["large_known"] else "with M_L taken as always right"
    return [
        f"it was chosen for the least cost, {record['cloud_cost']:g} per call and "
        f"{record['error_cost']:g} per wrong answer, {large}: {record['cost']:.4g} per input, "
        f"compared with {record['cost_all_edge']:.4g} without the cloud and "
        f"{record['cost_all_cloud']:.4g} without the device"
    ]


_GOALS: dict[str, Callable[[Record], list[str]]] = {
    "target_deferral": _target_deferral,
    "target_accuracy": _target_accuracy,
    "max_risk": _max_risk,
    "max_harm": _max_harm,
    "least_cost": _least_cost,
}


def _describe_decoder(bundle: Bundle) -> list[str]:
    """Return lines on tokenizer, limits, cache and verification.

    Raises:
        BundleError: The tokenizer does not open, or the limits are invalid.
    """
    from edge_runtime.language.settings import DecoderSettings  # its package loads ONNX Runtime

    limits = DecoderSettings.from_metadata(bundle.metadata)
    file = tokenizer_file(bundle)
    tokenizer = open_tokenizer(file)
    ends = ", ".join(f"{tokenizer.id_to_token(end)!r} ({end})" for end in limits.eos_token_ids)
    numbers = 2 * limits.layers * limits.kv_heads * limits.head_dim
    return [
        f"tokenizer: {file.name}, {tokenizer.get_vocab_size():,} tokens",
        f"answers: at most {limits.max_new_tokens} tokens, {limits.context} together with the "
        f"prompt; ended by {ends}",
        f"cache: {limits.layers} layers, {limits.kv_heads} heads of {limits.head_dim} numbers: "
        f"{numbers * _NUMBER_BYTES:,} bytes per token",
        *_describe_verification(bundle.verification),
    ]


def _describe_verification(record: dict[str, Any]) -> list[str]:
    try:
        graph = record["graph"]
        return [
            f"verified: the float graph gave PyTorch's tokens and decisions on {graph['prompts']} "
            f"prompts, confidences to {graph['confidence_error']:.1e}",
            *([quantization_summary(record["quantization"])] if "quantization" in record else []),
        ]
    except _OTHER_TOOLKIT:
        return []
