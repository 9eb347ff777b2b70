"""Exports a model in several precisions, and compares each with the float graph."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from benchmarks.commands.figures import QuantizationSettings, goal_flags
from benchmarks.documents import write_json
from benchmarks.tables import markdown
from benchmarks.timing import paired_medians_us
from edge_runtime import environment
from edge_runtime.bundle import read_bundle
from edge_runtime.edge_model import EdgeModel
from export.commands.build import BuildSettings
from export.commands.retune import RetuneSettings
from export.data import kind_of, load_split
from export.errors import CalibrationError, GraphError
from export.quantization import Kind
from export.session import run_bundle
from export.verification import Answers
from train.data import LabelledData
from train.models import open_checkpoint

_CALLS = 10


@dataclass(frozen=True)
class _Export:
    """A bundle, its answers on the test split, and the name of its source's float bundle."""

    bundle: Path
    model: EdgeModel
    answers: Answers
    exact: str


def measure(settings: QuantizationSettings) -> None:
    """Print the tables of precisions and goals, and write them to a file if one is named."""
    with tempfile.TemporaryDirectory() as scratch:
        bundles, left_out = _export(settings, Path(scratch))
        rows = _rows(settings, bundles, Path(scratch))
    machine = environment.hardware()
    print(f"{machine['cores']} cores of {machine['processor']}; medians, alternating rounds")
    print(precisions(rows))
    print()
    print(goals(rows))
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
        write_json(settings.out, content)


def _export(
    settings: QuantizationSettings, scratch: Path
) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the bundles, and the reasons for missing ones, by source and precision."""
    bundles, left_out = {}, {}
    for source, path in settings.sources.items():
        foreign = {} if source == "checkpoint" else {"processor": settings.checkpoint}
        for kind in settings.kinds:
            name = f"{source} {kind}"
            line: dict[str, Any] = {source: path, **foreign}
            line |= goal_flags(settings.goals[0], settings.large)
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
    calls = {name: _call(model, test.inputs[0]) for name, model in models.items()}
    times = paired_medians_us(calls, rounds=settings.rounds, calls_a_round=_CALLS)
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
        # The interval that the export printed for as many fresh inputs as it had for calibration.
        "interval": record["interval"],
        "interval_level": record["interval_level"],
    }


def _call(model: EdgeModel, picture: Any) -> Any:
    rows = model.reader.single(picture)
    return lambda: model(rows)


def _bytes(bundle: Path) -> int:
    return sum(file.stat().st_size for file in bundle.iterdir() if file.name != "bundle.json")


_COLUMNS: Final[dict[str, str]] = {
    "MB": "{megabytes:.2f}",
    "smaller": "{smaller:.2f} x",
    "ms": "{median_ms:.3f}",
    "faster": "{faster:.2f} x",
    "accuracy": "{accuracy:.4f}",
    "predictions differing": "{predictions_differing:.2%}",
    "decisions differing": "{decisions_differing:.2%}",
    "deferred": "{deferral_ratio:.1%}",
    "interval printed": "{interval[0]:.1%} to {interval[1]:.1%}",
}


def precisions(rows: dict[str, Any]) -> str:
    """Render sizes, times, accuracies and flips as a Markdown table."""
    lines = [
        (name, *(cell.format(**row) for cell in _COLUMNS.values())) for name, row in rows.items()
    ]
    return markdown([("source, precision", *_COLUMNS), *lines])


def goals(rows: dict[str, Any]) -> str:
    """Render the results of each goal on the test split as a Markdown table."""
    wanted = list(next(iter(rows.values()))["goals"])
    lines = [
        (name, *(_outcome_cell(row["goals"][g], g) for g in wanted)) for name, row in rows.items()
    ]
    return markdown([("source, precision", *wanted), *lines])


def _outcome_cell(outcome: dict[str, Any], goal: str) -> str:
    if "refused" in outcome:
        return "refused"
    error = outcome["wrong"] / outcome["answered"] if outcome["answered"] else 0.0
    text = f"answers {1 - outcome['deferral_ratio']:.1%}, {error:.2%} of them wrong"
    return f"{text}, harm {outcome['harm']:.2%}" if goal.startswith("max-harm") else text


def outcomes(
    settings: QuantizationSettings, bundle: Path, test: LabelledData, scratch: Path
) -> dict[str, Any]:
    """Return the results of a bundle on the test split, by goal.

    Args:
        settings: The goals, and the split to choose the thresholds on.
        bundle: Bundle that is calibrated for the first goal.
        test: Inputs that no threshold was chosen on.
        scratch: Folder for a copy that is calibrated for the other goals.

    Returns:
        `deferral_ratio`, `answered` (inputs), `wrong` (of these), and with M_L `harm` (its accuracy
        minus the joint accuracy); or `refused` with the reason.
    """
    large = None
    if settings.large is not None:
        predicted = open_checkpoint(settings.large, kind=test.kind).predict(test.inputs)
        large = predicted.argmax(axis=-1) == test.labels
    found = {settings.goals[0]: _outcome(bundle, test, large)}
    for goal in settings.goals[1:]:
        try:
            copy = shutil.copytree(bundle, scratch)
            RetuneSettings(
                bundle=copy,
                calibrate=settings.data,
                split=settings.split,
                **goal_flags(goal, settings.large),
            ).run()
            found[goal] = _outcome(copy, test, large)
        except CalibrationError as error:
            found[goal] = {"refused": str(error)}
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return found


def _outcome(bundle: Path, test: LabelledData, large_right: Any | None) -> dict[str, Any]:
    model = EdgeModel.open(bundle)
    prediction, _, defer = run_bundle(model, test.inputs)
    right = prediction == test.labels
    found = {
        "threshold": model.threshold,
        "deferral_ratio": float(defer.mean()),
        "answered": int((~defer).sum()),
        "wrong": int((~defer & ~right).sum()),
    }
    if large_right is not None:
        joint = np.where(defer, large_right, right)
        found["harm"] = float(large_right.mean() - joint.mean())
    return found
