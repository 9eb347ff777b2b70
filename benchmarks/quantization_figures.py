"""Exports a model in several precisions and holds each to the float graph."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks import quantization_tables
from benchmarks.goal_figures import outcomes
from benchmarks.quantization import QuantizationSettings, as_settings
from benchmarks.timing import paired_medians_us
from edge_runtime import environment
from edge_runtime.bundle import read_bundle
from edge_runtime.model import EdgeModel
from export.commands.build import BuildSettings
from export.errors import GraphError
from export.labelled import kind_of, load_split
from export.quantization import Kind
from export.session import Answers, run_bundle
from train.data import LabelledData

_CALLS = 10


@dataclass(frozen=True)
class _Export:
    """A bundle, and what it says of the test split; `exact` is the float one of its source."""

    bundle: Path
    model: EdgeModel
    answers: Answers
    exact: str


def measure(settings: QuantizationSettings) -> None:
    """Export, measure, print and write; see `QuantizationSettings`."""
    with tempfile.TemporaryDirectory() as scratch:
        bundles, left_out = _export(settings, Path(scratch))
        rows = _rows(settings, bundles, Path(scratch))
    machine = environment.hardware()
    print(f"{machine['cores']} cores of {machine['processor']}; medians, alternating rounds")
    print(quantization_tables.precisions(rows))
    print()
    print(quantization_tables.goals(rows))
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    if settings.out is not None:
        content = {
            **environment.describe("benchmarks"),
            "data": settings.data,
            "goals": settings.goals,
            "rows": rows,
            "left_out": left_out,
        }
        settings.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _export(
    settings: QuantizationSettings, scratch: Path
) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the bundles, and why others could not be made, by source and precision."""
    bundles, left_out = {}, {}
    for source, path in settings.sources.items():
        foreign = {} if source == "checkpoint" else {"processor": settings.checkpoint}
        for kind in settings.kinds:
            name = f"{source} {kind}"
            line: dict[str, Any] = {source: path, **foreign}
            line |= as_settings(settings.goals[0], settings.large)
            try:
                BuildSettings(
                    out=scratch / name,
                    calibrate=settings.data,
                    split=settings.split,
                    quantize=cast("Kind", kind),
                    max_flips=1.0,  # measured here, not refused
                    **line,
                ).run()
            except GraphError as error:
                left_out[name] = str(error)
                continue
            bundles[name] = scratch / name
    return bundles, left_out


def _rows(
    settings: QuantizationSettings, bundles: dict[str, Path], scratch: Path
) -> dict[str, Any]:
    models = {n: EdgeModel.open(path, threads=settings.threads) for n, path in bundles.items()}
    first = next(iter(models.values()))
    test = load_split(
        settings.data,
        "test",
        labels=first.labels,
        owner=settings.checkpoint,
        kind=kind_of(first.metadata),
    )
    exports = {
        name: _Export(
            bundles[name], model, run_bundle(model, test.inputs), f"{name.split()[0]} none"
        )
        for name, model in models.items()
    }
    times = _times_us(settings, models, test)
    return {
        name: {
            **_row(exports, name, test),
            "median_ms": times[name] / 1e3,
            "faster": times[export.exact] / times[name],
            "goals": outcomes(settings, export.bundle, test, scratch / f"{name} for another goal"),
        }
        for name, export in exports.items()
    }


def _row(exports: dict[str, _Export], name: str, test: LabelledData) -> dict[str, Any]:
    export, exact = exports[name], exports[exports[name].exact]
    prediction, confidence, defer = export.answers
    size, exact_size = _bytes(export.bundle), _bytes(exact.bundle)
    record = read_bundle(export.bundle).metadata.calibration or {}
    return {
        "megabytes": size / 1e6,
        "smaller": exact_size / size,
        "accuracy": float((prediction == test.labels).mean()),
        "predictions_differing": float((prediction != exact.answers[0]).mean()),
        "decisions_differing": float((defer != exact.answers[2]).mean()),
        "confidence_difference_mean": float(np.abs(confidence - exact.answers[1]).mean()),
        "deferral_ratio": float(defer.mean()),
        "test_size": len(test),
        # What the export printed for as many fresh inputs as it chose the threshold on.
        "interval": record["interval"],
        "interval_level": record["interval_level"],
    }


def _times_us(
    settings: QuantizationSettings, models: dict[str, EdgeModel], test: LabelledData
) -> dict[str, float]:
    calls = {name: _call(model, test.inputs[0]) for name, model in models.items()}
    return paired_medians_us(calls, rounds=settings.rounds, calls_a_round=_CALLS)


def _call(model: EdgeModel, given: Any) -> Any:
    rows = model.intake.one(given)
    return lambda: model(rows)


def _bytes(bundle: Path) -> int:
    return sum(file.stat().st_size for file in bundle.iterdir() if file.name != "bundle.json")
