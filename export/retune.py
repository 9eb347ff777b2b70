"""Gives a bundle another threshold: the work of `python -m export retune`."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx

from edge_runtime import contract
from edge_runtime.bundle import Bundle, read_bundle, role_of
from edge_runtime.contract import SecondLook
from edge_runtime.edge_model import EdgeModel
from edge_runtime.errors import BundleError, SettingError
from edge_runtime.language import Decoder
from export.bundle import write_bundle
from export.calibration import band_note
from export.calibration.effect import change
from export.calibration.sample import Sample
from export.classifier.calibration import Band, choose_gate
from export.classifier.second_look import set_band
from export.commands.retune import RetuneSettings
from export.data import freshness_note, kind_of, load_split
from export.gate import set_threshold
from export.language.calibration import calibration_task, choose_threshold
from export.session import open_graph, run_bundle
from export.sources.reference import Gate
from export.verification import Answers

_Record = dict[str, Any]


def retune(settings: RetuneSettings) -> None:
    """Rewrite threshold, record and hashes of a bundle; the rest of the graph is unchanged.

    Raises:
        BundleError: The bundle is damaged.
        ExportError: The data cannot give a threshold, or the bundle cannot be written.
        SettingError: The settings do not apply to this kind of bundle.
    """
    role = role_of(settings.bundle)
    bundle = read_bundle(settings.bundle, role)
    model = onnx.load_model_from_string(bundle.content)
    choose = _for_decoder if role == contract.ROLE_DECODER else _for_classifier
    gate, record, sample = choose(settings, bundle)
    set_threshold(model, gate.threshold)
    if gate.look is not None:
        set_band(model, *gate.look.limits)
    metadata = dataclasses.replace(
        bundle.metadata,
        threshold=gate.threshold,
        calibration=record,
        second_look=dataclasses.asdict(gate.look) if gate.look else bundle.metadata.second_look,
    )
    write_bundle(
        settings.bundle,
        model,
        metadata,
        bundle.verification,
        others=bundle.others,
        hashes=bundle.hashes,
        role=role,
    )
    moved = f"threshold {bundle.metadata.threshold:.6g} -> {gate.threshold:.6g}"
    fresh = freshness_note(
        metadata.extra, settings.calibrate, settings.split, certified=settings.is_certified
    )
    print(f"{settings.bundle}: {moved}{band_note(gate.threshold, gate.look)}{fresh}")
    print(*_effect(settings, bundle, gate, sample), sep="\n")
    if gate.look is None and _has_band(metadata.second_look):
        print(
            "the second look keeps its band, which was not chosen for this threshold: --calibrate "
            "moves both"
        )


def _effect(
    settings: RetuneSettings, bundle: Bundle, gate: Gate, sample: Sample | None
) -> list[str]:
    """Return what the change means to the user."""
    if sample is None:
        role = "--task TASK" if bundle.metadata.task == contract.TASK_GENERATION else "--data DATA"
        return [
            "a threshold set by hand: what it defers is unknown, measure it with `export verify "
            f"--bundle {settings.bundle} {role}`"
        ]
    return change(
        bundle.metadata.threshold,
        gate.threshold,
        sample,
        data=f"{settings.split} of {settings.calibrate}",
        is_same_look=gate.look is None,
    )


def _for_classifier(
    settings: RetuneSettings, bundle: Bundle
) -> tuple[Gate, _Record | None, Sample | None]:
    """Return (the gate, the record, the answers); its second look is None if the bundle's stays."""
    if settings.data is not None or settings.limit is not None:
        raise SettingError(
            f"expected no --data and no --limit for the classifier in {settings.bundle}: "
            "--calibrate names the data"
        )
    kind = bundle.metadata.confidence_kind
    if settings.threshold is not None:
        return Gate(kind, float(np.float32(settings.threshold))), None, None
    split = load_split(
        str(settings.calibrate),
        settings.split,
        labels=bundle.metadata.labels,
        owner=settings.bundle,
        kind=kind_of(bundle.metadata),
    )
    edge = EdgeModel(bundle)  # checks the graph against the contract
    before, model = None, onnx.ModelProto()
    if bundle.metadata.second_look is not None:
        before = SecondLook.from_fields(bundle.metadata.second_look)
        model = onnx.load_model_from_string(bundle.content)

    def answer(band: Band | None) -> Answers:
        if band is None:
            return run_bundle(edge, split.inputs)
        set_band(model, *band)
        return run_bundle(edge, split.inputs, open_graph(model, bundle.path))

    seen: list[Sample] = []
    gate, record = choose_gate(
        settings,
        kind,
        split,
        answer,
        extra=bundle.metadata.extra,
        look=None if before is None else (before.view, before.band),
        watch=seen.append,
    )
    return gate, record, seen[-1]


def _for_decoder(
    settings: RetuneSettings, bundle: Bundle
) -> tuple[Gate, _Record | None, Sample | None]:
    task = calibration_task(settings)
    chosen = choose_threshold(settings, Decoder(bundle), task)
    return Gate(bundle.metadata.confidence_kind, chosen.threshold), chosen.record, chosen.sample


def _has_band(described: dict[str, Any] | None) -> bool:
    if described is None:
        return False
    try:
        return not SecondLook.from_fields(described).is_of_every_input
    except BundleError:  # from another toolkit; its threshold can be set all the same
        return True
