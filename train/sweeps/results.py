"""The results of a sweep: per-sample file, figures, table; all but the first follow from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import contract, environment
from train.comparison import FIGURES, Candidate, compare, joint_name
from train.data import Splits
from train.errors import DataError
from train.scores import SPLITS, Scores, load_scores
from train.sweeps import jobs
from train.sweeps.choice import recommend, sentences
from train.sweeps.methods import CONTROL, UNTUNED, trainings
from train.sweeps.settings import SweepSettings

RESULTS_FILE = "sweep-results.json"
SAMPLES_FILE = "sweep-samples.npz"
TABLE_FILE = "sweep.md"
_SECOND_LOOKS = ("max_softmax", "mirror", "mirror_band")
_PROBABILITIES = frozenset(
    {"max_softmax", "temperature", "mirror", "mirror_band", contract.DEFERRAL_HEAD}
)
_PLAIN = "max_softmax"


@dataclass(frozen=True)
class Samples:
    """Every candidate of a sweep on validation and test.

    Attributes:
        ids: By split: input ids [n].
        large: By split: 1 where M_L is right, bool [n].
        candidates: By split, then by name.
        seeds: The training seeds, the rows of a candidate.
    """

    ids: Mapping[str, npt.NDArray[np.str_]]
    large: Mapping[str, npt.NDArray[np.bool_]]
    candidates: Mapping[str, Mapping[str, Candidate]]
    seeds: tuple[int, ...]


def write_results(settings: SweepSettings, splits: Splits, wall_time_s: float) -> None:
    """Gather the scores of all trainings, and write what follows from them."""
    samples = _gather(settings, splits)
    save_samples(settings.out / SAMPLES_FILE, samples)
    content = {
        **environment.describe("train"),
        "kind": "sweep",
        "data": settings.data,
        "model": settings.model,
        "large": str(settings.large),
        "deferral": settings.deferral,
        "epochs": settings.epochs,
        "stage2_data": settings.stage2_data,
        "sizes": {s: len(getattr(splits, s)) for s in ("train", "validation", "test")},
        "wall_time_s": wall_time_s,
        "stopped": _stopped(settings),
        "left_out": _left_out(settings),
        **follows(samples, settings.deferral),
    }
    text = json.dumps(content, indent=1) + "\n"
    partial = settings.out / f"{RESULTS_FILE}.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(settings.out / RESULTS_FILE)
    (settings.out / TABLE_FILE).write_text(report(content), encoding="utf-8")
    print(table(content["test"]))
    print("\n".join(content["findings"]))
    print(f"\n{settings.out}: {TABLE_FILE}, {RESULTS_FILE}, {SAMPLES_FILE} ({wall_time_s} s)")


def follows(samples: Samples, deferral: float) -> dict[str, Any]:
    """Return everything of the results that follows from the per-sample file."""
    compared = compare_both(samples)
    chosen = recommend(compared["validation"], select=joint_name(deferral))
    content = {
        "seeds": list(samples.seeds),
        "acc(M_L)": {split: float(samples.large[split].mean()) for split in SPLITS},
        **compared,
        "recommended": chosen,
    }
    return {**content, "findings": findings({**content, "deferral": deferral})}


def findings(content: Mapping[str, Any]) -> list[str]:
    """Return the sentences that follow from the figures of a sweep's results."""
    return sentences(
        {split: content[split] for split in SPLITS},
        content["recommended"],
        select=joint_name(content["deferral"]),
        large_accuracy=content["acc(M_L)"]["test"],
    )


def compare_both(samples: Samples) -> dict[str, Any]:
    """Return the comparison with the control on validation and on test."""
    return {
        split: compare(samples.candidates[split], samples.large[split].astype(float), CONTROL)
        for split in SPLITS
    }


def _gather(settings: SweepSettings, splits: Splits) -> Samples:
    large = jobs.load_large(settings.out / jobs.LARGE_FILE)
    candidates: dict[str, dict[str, Candidate]] = {split: {} for split in SPLITS}
    for training in trainings(settings.methods, settings.alphas):
        files = [jobs.scores_file(settings, seed, training.name) for seed in settings.seeds]
        runs = [load_scores(file) for file in files]
        for gate in _gates(training.name, runs):
            name = training.name if gate == _PLAIN else f"{training.name} + {gate}"
            for split in SPLITS:
                candidates[split][name] = _candidate(runs, gate, split)
    parts = {split: getattr(splits, split) for split in SPLITS}
    return Samples(
        ids={s: np.array(part.ids) for s, part in parts.items()},
        large={s: large.flags(part) for s, part in parts.items()},
        candidates=candidates,
        seeds=settings.seeds,
    )


def _gates(training: str, runs: list[Scores]) -> list[str]:
    """Return the gates that every seed has.

    Those that only reorder one view are rivals of Gatekeeper: they go with what is untuned.
    """
    shared = [gate for gate in runs[0].passes if all(gate in run.passes for run in runs)]
    if training in {UNTUNED, CONTROL}:
        return shared
    return [gate for gate in _SECOND_LOOKS if gate in shared]


def _candidate(runs: list[Scores], gate: str, split: str) -> Candidate:
    return Candidate(
        uncertainty=np.stack([run.uncertainty[split][gate] for run in runs]),
        right=np.stack([run.right[split] for run in runs]),
        passes=float(np.mean([run.passes[gate] for run in runs])),
        is_probability=gate in _PROBABILITIES,
    )


def _stopped(settings: SweepSettings) -> dict[str, str]:
    """Return which runs the guard ended, and why."""
    found = {}
    for seed in settings.seeds:
        for training in trainings(settings.methods, settings.alphas):
            if training.flags is None:
                continue
            file = jobs.seed_folder(settings, seed) / training.name / "training.json"
            reason = json.loads(file.read_text(encoding="utf-8")).get("stopped")
            if reason:
                found[f"{training.name}, seed {seed}"] = reason
    return found


def _left_out(settings: SweepSettings) -> dict[str, str]:
    """Return which gates could not be scored, and why."""
    found = {}
    for seed in settings.seeds:
        for name in (UNTUNED, CONTROL):
            scores = load_scores(jobs.scores_file(settings, seed, name))
            for gate, reason in scores.left_out.items():
                found[f"{name} + {gate}, seed {seed}"] = reason
    return found


def save_samples(path: Path, samples: Samples) -> None:
    """Write the per-sample file in one step."""
    names = list(samples.candidates["test"])
    arrays: dict[str, Any] = {"names": np.array(names), "seeds": np.array(samples.seeds)}
    for split in SPLITS:
        found = samples.candidates[split]
        arrays[f"{split}/ids"] = samples.ids[split]
        arrays[f"{split}/large"] = samples.large[split]
        for i, name in enumerate(names):
            arrays[f"{split}/{i}/uncertainty"] = found[name].uncertainty
            arrays[f"{split}/{i}/right"] = np.packbits(found[name].right, axis=1)
            arrays[f"{split}/{i}/meta"] = np.array(
                [found[name].passes, float(found[name].is_probability)]
            )
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(path)


def read_samples(path: Path) -> Samples:
    """Read what `save_samples` wrote.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [str(name) for name in file["names"]]
            return Samples(
                ids={s: file[f"{s}/ids"] for s in SPLITS},
                large={s: file[f"{s}/large"] for s in SPLITS},
                candidates={s: _read_candidates(file, s, names) for s in SPLITS},
                seeds=tuple(file["seeds"].tolist()),
            )
    except Exception as error:  # noqa: BLE001 - a damaged archive raises nearly anything
        raise DataError(f"expected the samples of a sweep in {path}: {error}") from None


def _read_candidates(file: Any, split: str, names: list[str]) -> dict[str, Candidate]:
    found = {}
    for i, name in enumerate(names):
        doubt = file[f"{split}/{i}/uncertainty"]
        right = np.unpackbits(file[f"{split}/{i}/right"], axis=1, count=doubt.shape[1])
        passes, is_probability = file[f"{split}/{i}/meta"].tolist()
        found[name] = Candidate(doubt, right.astype(bool), passes, bool(is_probability))
    return found


def _machine(hardware: Mapping[str, Any]) -> str:
    """Name it in words; results of older sweeps do not know of GPUs."""
    names = [f"{hardware['cores']} cores of {hardware['processor']}", *hardware.get("gpus", [])]
    return " and ".join(names)


def table(compared: Mapping[str, Any]) -> str:
    """Render a split's figures as a Markdown table; differences to the control stand in points."""
    head = ["", "passes", *FIGURES]
    rows = [head, ["---"] * len(head)]
    for name, row in compared.items():
        values = [_value(row["figures"][figure]["value"]) for figure in FIGURES]
        if name != CONTROL:
            values = [
                f"{value}{_gain(row['minus_control'][figure])}"
                for value, figure in zip(values, FIGURES, strict=True)
            ]
        rows.append([name, f"{row['passes']:.2f}", *values])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _value(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _gain(figure: Mapping[str, float]) -> str:
    if np.isnan(figure["value"]):
        return ""
    clear = figure["low"] > 0 or figure["high"] < 0
    return f" ({figure['value'] * 100:+.1f}{'*' if clear else ''})"


def report(content: Mapping[str, Any]) -> str:
    """Render the page that people read."""
    sizes = content["sizes"]
    lines = [
        f"# Sweep on {Path(content['data']).name}",
        "",
        f"{content['model']}, {sizes['train']} inputs to train, {sizes['validation']} to choose, "
        f"{sizes['test']} to report; seeds {content['seeds']}; {content['epochs']} epochs of stage "
        f"2 each, stage 2 data {content['stage2_data']}; acc(M_L) "
        f"{content['acc(M_L)']['test']:.3f}; {_machine(content['hardware'])}, "
        f"{content['wall_time_s']} s, revision {content['git_revision']}.",
        "",
        f"    {content['command']}",
        "",
        "In brackets the difference to the control in points; a star where its paired 95 % "
        "bootstrap interval over inputs and seeds does not hold 0. Passes are forward passes of "
        "M_S an input.",
        "",
        table(content["test"]),
        "",
        *(f"- {line}" for line in content["findings"]),
        *(f"- The guard ended {run}: {why}." for run, why in content["stopped"].items()),
        # Results of older sweeps do not say.
        *(f"- Left out: {gate}: {why}." for gate, why in content.get("left_out", {}).items()),
    ]
    return "\n".join(lines) + "\n"
