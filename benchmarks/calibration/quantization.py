"""The command `python -m benchmarks quantization`: what each way of storing the weights costs."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from benchmarks.timing import paired_medians_us
from edge_runtime import environment
from edge_runtime.bundle import read_bundle
from edge_runtime.cli import Command, field
from edge_runtime.edge_model import EdgeModel
from edge_runtime.errors import SettingError
from export.commands.build import BuildSettings
from export.commands.retune import RetuneSettings
from export.data import kind_of, load_split
from export.errors import CalibrationError, GraphError
from export.quantization import Kind
from export.session import run_bundle
from export.verification import Answers
from train.data import LabelledData
from train.models import open_checkpoint

# MERGEDOC benchmarks/quantization_figures.py: 'Exports a model in several precisions and holds each to the float graph.'
# MERGEDOC benchmarks/quantization_tables.py: 'Renders what `benchmarks quantization` measured as Markdown tables.'
# MERGEDOC benchmarks/goal_figures.py: 'Calibrates a bundle for one goal after the other, and looks on fresh data what became of it.'

KINDS = ("none", "fp16", "int8", "int8-dynamic", "int4")
GOALS = ("target-deferral", "target-accuracy", "max-risk", "max-harm")
SOURCES = ("checkpoint", "program", "onnx")

_CALLS = 10


@dataclass(frozen=True, kw_only=True)
class QuantizationSettings(Command):
    """Export a model in every precision, and compare size, time, accuracy and decisions.

    Every bundle is calibrated as it ships, for each goal in turn; accuracy, deferral ratio, flips
    and what became of a guarantee are of the test split. What a precision or a goal cannot do is
    said with the reason.

    Example: python -m benchmarks quantization --checkpoint runs/small --data digits
    """

    checkpoint: Path = field("checkpoint folder")
    program: Path | None = field("the same model as a torch.export program as well", default=None)
    onnx: Path | None = field("the same model as somebody's ONNX file as well", default=None)
    data: str = field("data set to calibrate and test on", default="digits")
    split: Literal["validation", "test"] = field(
        "split to choose the thresholds on; the figures are of test", default="validation"
    )
    kinds: tuple[str, ...] = field("precisions", default=KINDS)
    goals: tuple[str, ...] = field(
        f"goals to calibrate for, NAME=VALUE of {', '.join(GOALS)}; flips are told at the first",
        default=("target-deferral=0.3",),
    )
    large: Path | None = field("checkpoint folder of M_L, for max-harm", default=None)
    rounds: int = field("alternating rounds of the timing", default=20)
    threads: int | None = field("threads of one run (default: all cores)", default=None)
    out: Path | None = field("write the result here as JSON", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or "none" not in self.kinds:
            raise SettingError(
                f"expected --kinds among {', '.join(KINDS)}, none (the float graph) with them, got "
                f"{', '.join(self.kinds)}"
            )
        if not self.goals:
            raise SettingError("expected at least one goal in --goals, got none")
        for goal in self.goals:
            as_settings(goal, self.large)
        if self.rounds < 1:
            raise SettingError(f"expected --rounds of at least 1, got {self.rounds}")

    @property
    def sources(self) -> dict[str, Path]:
        """The files and folders that hold the model, by the flag of `export` that takes them."""
        named = {name: getattr(self, name) for name in SOURCES}
        return {name: path for name, path in named.items() if path is not None}

    def run(self) -> None:
        """Print the tables, and write them where asked."""
        measure(self)


def as_settings(goal: str, large: Path | None) -> dict[str, Any]:
    """Return `export`'s settings for a goal like `max-risk=0.05`.

    Raises:
        SettingError: It is none, or M_L is missing for it.
    """
    name, _, text = goal.partition("=")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if name not in GOALS or not 0.0 <= value <= 1.0:
        raise SettingError(
            f"expected --goals like target-deferral=0.3, of {', '.join(GOALS)} with a value in "
            f"[0, 1], got {goal}"
        )
    if name != "max-harm":
        return {name.replace("-", "_"): value}
    if large is None:
        raise SettingError("expected --large CHECKPOINT with the goal max-harm")
    return {"max_harm": value, "large": large}


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


def precisions(rows: dict[str, Any]) -> str:
    """Return sizes, times, accuracies and flips."""
    head = (
        "source, precision",
        "MB",
        "smaller",
        "ms",
        "faster",
        "accuracy",
        "predictions differing",
        "decisions differing",
        "deferred",
        "interval printed",
    )
    return _table(head, [_precision(name, row) for name, row in rows.items()])


def _precision(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["interval"]
    return (
        name,
        f"{row['megabytes']:.2f}",
        f"{row['smaller']:.2f} x",
        f"{row['median_ms']:.3f}",
        f"{row['faster']:.2f} x",
        f"{row['accuracy']:.4f}",
        f"{row['predictions_differing']:.2%}",
        f"{row['decisions_differing']:.2%}",
        f"{row['deferral_ratio']:.1%}",
        f"{low:.1%} to {high:.1%}",
    )


def goals(rows: dict[str, Any]) -> str:
    """Return, goal by goal, what became of it on the test split."""
    wanted = list(next(iter(rows.values()))["goals"])
    lines = [
        (name, *(_outcome_cell(row["goals"][g], g) for g in wanted)) for name, row in rows.items()
    ]
    return _table(("source, precision", *wanted), lines)


def _outcome_cell(found: dict[str, Any], goal: str) -> str:
    if "refused" in found:
        return "refused"
    error = found["wrong"] / found["answered"] if found["answered"] else 0.0
    text = f"answers {1 - found['deferral_ratio']:.1%}, {error:.2%} of them wrong"
    return f"{text}, harm {found['harm']:.2%}" if goal.startswith("max-harm") else text


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    whole = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in whole)


def outcomes(
    settings: QuantizationSettings, bundle: Path, test: LabelledData, scratch: Path
) -> dict[str, Any]:
    """Return, by goal, what a bundle does on the test split.

    Args:
        settings: The goals, and what to choose the thresholds on.
        bundle: Calibrated for the first goal.
        test: Inputs that no threshold was chosen on.
        scratch: Where a copy for the other goals may stand.

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
                **as_settings(goal, settings.large),
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
