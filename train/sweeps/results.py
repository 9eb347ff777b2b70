"""The results of a sweep: the per-sample file, and the figures and tables derived from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import contract, environment
from edge_runtime.files import one_line, write_atomically
from edge_runtime.reading import read_json
from train.comparison.figures import FIGURES, Candidate, compare, joint_name
from train.comparison.samples import (
    Samples,
    describe_machine,
    read_samples,
    render_table,
    save_samples,
)
from train.comparison.scores import SPLITS, Scores, load_scores
from train.data import Splits
from train.errors import OutputError
from train.sweeps import jobs
from train.sweeps.choice import recommend, sentences
from train.sweeps.methods import CONTROL, UNTUNED, trainings
from train.sweeps.settings import RecommendSettings, SweepSettings

RESULTS_FILE = "sweep-results.json"
SAMPLES_FILE = "sweep-samples.npz"
TABLE_FILE = "sweep.md"
_SECOND_LOOKS = ("max_softmax", "mirror", "mirror_band")
_PROBABILITIES = frozenset(
    {"max_softmax", "temperature", "mirror", "mirror_band", contract.DEFERRAL_HEAD}
)
_PLAIN = "max_softmax"


def write_results(settings: SweepSettings, splits: Splits, wall_time_s: float) -> None:
    """Gather the scores of all trainings, and write them with everything derived from them."""
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
        **derive_results(samples, settings.deferral),
    }
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(settings.out / RESULTS_FILE, text)
    write_atomically(settings.out / TABLE_FILE, report(content))
    print(_table(content["test"]))
    print("\n".join(content["findings"]))
    print(f"\n{settings.out}: {TABLE_FILE}, {RESULTS_FILE}, {SAMPLES_FILE} ({wall_time_s} s)")


def derive_results(samples: Samples, deferral: float) -> dict[str, Any]:
    """Return the part of the results that is computed from the per-sample file."""
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
    """Return the sentences on a sweep's results."""
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


def print_recommendation(settings: RecommendSettings) -> None:
    """Choose the best setting of a sweep, and print its figures next to the control's."""
    samples = read_samples(settings.sweep / SAMPLES_FILE)
    compared = compare_both(samples)
    chosen = recommend(
        compared["validation"],
        select=settings.figure,
        largest_drop=settings.max_accuracy_drop,
        most_passes=settings.max_passes,
    )
    columns = [compared["test"][name]["figures"] for name in (chosen, CONTROL)]
    print(f"{'on the test set':28} {chosen:>28}      {CONTROL}")
    for name in FIGURES:
        values = [figures[name]["value"] for figures in columns]
        cells = ["    -  " if math.isnan(value) else f"{value:.4f}" for value in values]
        print(f"{name:28} {cells[0]:>28} {cells[1]:>12}")
    large = float(samples.large["test"].mean())
    print("\n".join(sentences(compared, chosen, select=settings.figure, large_accuracy=large)))


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
    """Return the gates to show for a training, of those that every seed has.

    Gates that only reorder one view are rivals of Gatekeeper: the untuned model and the control
    show them.
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
    """Return run -> why the guard ended it."""
    stopped = {}
    for seed in settings.seeds:
        for training in trainings(settings.methods, settings.alphas):
            if training.flags is None:
                continue
            if reason := _reason(jobs.seed_folder(settings, seed) / training.name):
                stopped[f"{training.name}, seed {seed}"] = reason
    return stopped


def _reason(run: Path) -> str | None:
    file = run / "training.json"
    try:
        reason = read_json(file).get("stopped")
    except (OSError, ValueError, AttributeError) as error:
        raise OutputError(
            f"expected the record of a training at {file}, it is damaged ({one_line(error)}): "
            f"remove {run}, and the sweep trains it again"
        ) from None
    return None if reason is None else str(reason)


def _left_out(settings: SweepSettings) -> dict[str, str]:
    """Return gate -> why it could not be scored."""
    left_out = {}
    for seed in settings.seeds:
        for name in (UNTUNED, CONTROL):
            scores = load_scores(jobs.scores_file(settings, seed, name))
            for gate, reason in scores.left_out.items():
                left_out[f"{name} + {gate}, seed {seed}"] = reason
    return left_out


def _table(compared: Mapping[str, Any]) -> str:
    passes = {name: f"{row['passes']:.2f}" for name, row in compared.items()}
    return render_table(compared, {CONTROL}, {"passes": passes})


def report(content: Mapping[str, Any]) -> str:
    """Return the results as a Markdown page."""
    sizes = content["sizes"]
    lines = [
        f"# Sweep on {Path(content['data']).name}",
        "",
        f"{content['model']}, {sizes['train']} inputs to train on, {sizes['validation']} to choose "
        f"on, {sizes['test']} to report; seeds {content['seeds']}; {content['epochs']} "
        f"epochs of stage 2 each, stage 2 data {content['stage2_data']}; acc(M_L) "
        f"{content['acc(M_L)']['test']:.3f}; {describe_machine(content['hardware'])}, "
        f"{content['wall_time_s']} s, revision {content['git_revision']}.",
        "",
        f"    {content['command']}",
        "",
        "Brackets show the difference, in points, to the control. A star marks a difference whose "
        "paired 95 % bootstrap interval over inputs and seeds excludes 0. Passes are forward "
        "passes of M_S per input.",
        "",
        _table(content["test"]),
        "",
        *(f"- {line}" for line in content["findings"]),
        *(f"- The guard ended {run}: {why}." for run, why in content["stopped"].items()),
        # Results of older sweeps lack this key.
        *(f"- Left out: {gate}: {why}." for gate, why in content.get("left_out", {}).items()),
    ]
    return "\n".join(lines) + "\n"
