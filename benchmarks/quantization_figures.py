"""Exports a checkpoint in several precisions and holds each to the float graph."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.quantization import QuantizationSettings
from benchmarks.timing import paired_medians_us
from edge_runtime import environment
from edge_runtime.bundle import read_bundle
from edge_runtime.model import EdgeModel
from export.commands.build import BuildSettings
from export.errors import GraphError
from export.labelled import load_split
from export.quantization import Kind
from export.session import run_bundle
from train.data import LabelledData

_CALLS = 10


def measure(settings: QuantizationSettings) -> None:
    """Export, measure, print and write; see `QuantizationSettings`."""
    with tempfile.TemporaryDirectory() as scratch:
        bundles, left_out = _export(settings, Path(scratch))
        rows = _rows(settings, bundles)
    machine = environment.hardware()
    print(f"{machine['cores']} cores of {machine['processor']}; medians, alternating rounds")
    print(table(rows))
    for kind, reason in left_out.items():
        print(f"left out: {kind}: {reason}")
    if settings.out is not None:
        content = {
            **environment.describe("benchmarks"),
            "data": settings.data,
            "target_deferral": settings.target_deferral,
            "rows": rows,
            "left_out": left_out,
        }
        settings.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _export(
    settings: QuantizationSettings, scratch: Path
) -> tuple[dict[str, Path], dict[str, str]]:
    bundles, left_out = {}, {}
    for kind in settings.kinds:
        try:
            BuildSettings(
                checkpoint=settings.checkpoint,
                out=scratch / kind,
                calibrate=settings.data,
                target_deferral=settings.target_deferral,
                quantize=cast("Kind", kind),
                max_flips=1.0,  # measured here, not refused
            ).run()
        except GraphError as error:
            left_out[kind] = str(error)
            continue
        bundles[kind] = scratch / kind
    return bundles, left_out


def _rows(settings: QuantizationSettings, bundles: dict[str, Path]) -> dict[str, Any]:
    models = {k: EdgeModel.open(path, threads=settings.threads) for k, path in bundles.items()}
    exact = models["none"]
    test = load_split(settings.data, "test", labels=exact.labels, owner=settings.checkpoint)
    answers = {kind: run_bundle(model, test.inputs) for kind, model in models.items()}
    times = _times_us(settings, models, test)
    return {
        kind: {
            "megabytes": _bytes(bundles[kind]) / 1e6,
            "smaller": _bytes(bundles["none"]) / _bytes(bundles[kind]),
            "median_ms": times[kind] / 1e3,
            "faster": times["none"] / times[kind],
            "accuracy": float((prediction == test.labels).mean()),
            "predictions_differing": float((prediction != answers["none"][0]).mean()),
            "decisions_differing": float((defer != answers["none"][2]).mean()),
            "confidence_difference_mean": float(np.abs(confidence - answers["none"][1]).mean()),
            "deferral_ratio": float(defer.mean()),
            "test_size": len(test),
            **_printed(bundles[kind]),
        }
        for kind, (prediction, confidence, defer) in answers.items()
    }


def _times_us(
    settings: QuantizationSettings, models: dict[str, EdgeModel], test: LabelledData
) -> dict[str, float]:
    picture = test.inputs[0][None]
    calls = {kind: _call(model, picture) for kind, model in models.items()}
    return paired_medians_us(calls, rounds=settings.rounds, calls_a_round=_CALLS)


def _call(model: EdgeModel, picture: Any) -> Any:
    return lambda: model(picture)


def _bytes(bundle: Path) -> int:
    return sum(file.stat().st_size for file in bundle.glob("*.onnx*"))


def _printed(bundle: Path) -> dict[str, Any]:
    """Return the prediction interval that the export printed, for as many inputs as it chose on."""
    record = read_bundle(bundle).metadata.calibration or {}
    return {"interval": record["interval"], "interval_level": record["interval_level"]}


def table(rows: dict[str, Any]) -> str:
    """Render the comparison as a Markdown table."""
    head = [
        "precision",
        "MB",
        "smaller",
        "ms",
        "faster",
        "accuracy",
        "predictions differing",
        "decisions differing",
        "deferred",
        "interval printed",
    ]
    lines = [head, ["---"] * len(head)]
    for kind, row in rows.items():
        low, high = row["interval"]
        lines.append(
            [
                kind,
                f"{row['megabytes']:.2f}",
                f"{row['smaller']:.2f} x",
                f"{row['median_ms']:.3f}",
                f"{row['faster']:.2f} x",
                f"{row['accuracy']:.4f}",
                f"{row['predictions_differing']:.2%}",
                f"{row['decisions_differing']:.2%}",
                f"{row['deferral_ratio']:.1%}",
                f"{low:.1%} to {high:.1%}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
