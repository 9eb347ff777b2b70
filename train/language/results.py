"""The results of a comparison of language models: per-sample file, figures, table.

All but the first follow from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import contract, environment
from edge_runtime.files import write_atomically
from train.comparison.figures import ACCURACY, AREA, compare, joint_name
from train.comparison.samples import Samples, describe_machine, render_table, save_samples
from train.comparison.scores import SPLITS
from train.language.gathering import MODELS, NOT_MEANINGFUL, row_name, spoken
from train.language.rivals import CONTROL, UNTUNED
from train.sweeps.choice import describe_difference, recommend

RESULTS_FILE = "lm-results.json"
SAMPLES_FILE = "lm-samples.npz"
TABLE_FILE = "lm.md"
_PLAIN = row_name(CONTROL, contract.NEG_ENTROPY)
_BASES = (_PLAIN, row_name(UNTUNED, contract.NEG_ENTROPY))
_COLLAPSED = 0.5


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What the samples do not say.

    Attributes:
        task: The name of the task.
        deferral: The deferral ratio that is chosen for.
        wall_time_s: How long it all took.
        settings: What people are to read of models and training, by name.
        left_out: Which rivals could not be fitted, and why.
    """

    task: str
    deferral: float
    wall_time_s: float
    settings: Mapping[str, Any]
    left_out: Mapping[str, str] = field(default_factory=dict)


def write_results(
    folder: Path, samples: Samples, meta: Meta, *, module: str = "train"
) -> dict[str, Any]:
    """Write the per-sample file, and the figures and the page that follow from it.

    Args:
        folder: Where to; it is made.
        samples: Of `gather`.
        meta: What they do not say.
        module: Whose command it was: `python -m module`.

    Returns:
        The content of `RESULTS_FILE`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_samples(folder / SAMPLES_FILE, samples)
    content = {
        **environment.describe(module),
        "kind": "language",
        "task": meta.task,
        "deferral": meta.deferral,
        "wall_time_s": meta.wall_time_s,
        "settings": dict(meta.settings),
        "sizes": {split: len(samples.ids[split]) for split in SPLITS},
        "left_out": dict(meta.left_out),
        **follows(samples, meta.deferral),
    }
    write_atomically(folder / RESULTS_FILE, json.dumps(content, indent=1) + "\n")
    (folder / TABLE_FILE).write_text(report(content), encoding="utf-8")
    return content


def follows(samples: Samples, deferral: float) -> dict[str, Any]:
    """Return everything of the results that follows from the per-sample file.

    Args:
        samples: Of `gather`, or as read again.
        deferral: The deferral ratio that is chosen for.
    """
    controls = control_rows(samples)
    compared = {
        split: compare(samples.candidates[split], samples.large[split].astype(float), controls)
        for split in SPLITS
    }
    names = dict.fromkeys(rival_of(row) for row in controls)
    speech = {s: {name: spoken(samples, s, name) for name in names} for s in SPLITS}
    large = {split: float(samples.large[split].mean()) for split in SPLITS}
    chosen = _choose(samples, compared["validation"], joint_name(deferral))
    pair = {name: samples.candidates["test"][name] for name in (chosen["best"], chosen["control"])}
    beside = compare(pair, samples.large["test"].astype(float), chosen["control"])
    content = {
        "seeds": list(samples.seeds),
        "acc(M_L)": large,
        **compared,
        "answers": speech,
        "controls": controls,
        "not_meaningful": samples.extra[NOT_MEANINGFUL].tolist(),
        "chosen": chosen,
        "chosen_minus_control": beside[chosen["best"]]["minus_control"],
    }
    return {**content, "findings": findings(content, joint_name(deferral))}


def control_rows(samples: Samples) -> dict[str, str]:
    """Return for every row the one it is compared with: the control by the same confidence.

    A confidence that the control does not have is compared with its `neg_entropy`.
    """
    rows = samples.candidates["test"]
    own = {row: row_name(CONTROL, row.partition(" + ")[2]) for row in rows}
    return {row: control if control in rows else _PLAIN for row, control in own.items()}


def _choose(samples: Samples, validation: Mapping[str, Any], select: str) -> dict[str, str]:
    """Choose on validation: the best row of all, of the control, and of the tuned models."""
    meaningless = set(samples.extra[NOT_MEANINGFUL].tolist())
    tuned = set(samples.extra[MODELS].tolist()) - {UNTUNED, CONTROL}
    meant = {row: v for row, v in validation.items() if rival_of(row) not in meaningless}

    def best(among: set[str]) -> str | None:
        values = {row: v["figures"][select]["value"] for row, v in meant.items()}
        known = [row for row in meant if rival_of(row) in among and not np.isnan(values[row])]
        return max(known, key=values.__getitem__, default=None)

    control = best({CONTROL}) or _PLAIN
    bases = [row for row in _BASES if row in meant]
    chosen = {
        "control": control,
        "best": recommend(meant, select=select, control=control, bases=bases),
    }
    # Whatever accuracy it lost: the page is to say what tuning does.
    ours = best(tuned - meaningless)
    return chosen if ours is None else chosen | {"tuned": ours}


def findings(content: Mapping[str, Any], select: str) -> list[str]:
    """Say in words what was found.

    Args:
        content: Of `follows`, or as it was written.
        select: The figure that was chosen by.
    """
    chosen, test = content["chosen"], content["test"]
    best, control = chosen["best"], chosen["control"]
    lines = [f"Chosen on validation: {best}; of the control's confidences: {control}."]
    lines += _no_gap(content["acc(M_L)"]["test"], test[control]["figures"][ACCURACY]["value"])
    shown = (select, AREA, "AUROC", ACCURACY)
    if best != control:
        gains = content["chosen_minus_control"]
        lines += [f"{best}: {describe_difference(f, gains[f])}" for f in shown]
    if "tuned" in chosen:
        ours = chosen["tuned"]
        lines.append(
            f"The tuned model that is best on validation is {ours}; the control is the one by the "
            "same confidence."
        )
        lines += [
            f"{ours}: {describe_difference(f, test[ours]['minus_control'][f])}" for f in shown
        ]
    lines += [
        f"{name} gives one answer to {row['most frequent answer']:.0%} of what it answers."
        for name, row in content["answers"]["test"].items()
        if row["most frequent answer"] >= _COLLAPSED
    ]
    return lines + [
        f"The figures of {name} are not meaningful: the model never saw an instruction."
        for name in content["not_meaningful"]
    ]


def _no_gap(large: float, small: float) -> list[str]:
    if large > small:
        return []
    return [
        f"M_L is right on {large:.1%} of the test set, the control on {small:.1%}: it is no "
        "better as a whole, and s_d is not defined. Take a better M_L."
    ]


def rival_of(row: str) -> str:
    """Return whose row of the table it is."""
    return row.partition(" + ")[0]


def shown_table(content: Mapping[str, Any], split: str = "test") -> str:
    """Render a split's table; a rival that means nothing for these models is marked."""
    answers, labels = content["answers"][split], {}
    for row in content[split]:
        marked = rival_of(row) in content["not_meaningful"]
        labels[row] = f"{row} (not meaningful)" if marked else row
    columns = {
        heading: {
            label: _format(heading, answers[rival_of(row)][heading])
            for row, label in labels.items()
        }
        for heading in ("unparsed", "tokens/s")
    }
    renamed = {labels[row]: values for row, values in content[split].items()}
    return render_table(renamed, set(content["controls"].values()), columns)


def _format(heading: str, value: float) -> str:
    return f"{value:.0f}" if heading == "tokens/s" else f"{value:.1%}"


def report(content: Mapping[str, Any]) -> str:
    """Render the page that people read."""
    sizes = content["sizes"]
    lines = [
        f"# Language models on {content['task']}",
        "",
        f"{sizes['validation']} examples to choose, {sizes['test']} to report; seeds "
        f"{content['seeds']}; acc(M_L) {content['acc(M_L)']['test']:.3f}; "
        f"{describe_machine(content['hardware'])}, {content['wall_time_s']} s, revision "
        f"{content['git_revision']}.",
        "",
        f"    {content['command']}",
        "",
        *(f"- {name}: {value}" for name, value in content["settings"].items()),
        "",
        "In brackets the difference to the control by the same confidence (its neg_entropy where "
        "it has no such confidence), in points; a star where the paired 95 % bootstrap interval "
        "over inputs and seeds does not hold 0. s_o is that of the confidence mapped to [0, 1].",
        "",
        shown_table(content),
        "",
        *(f"- {line}" for line in content["findings"]),
        *(f"- Left out: {name}: {why}." for name, why in content["left_out"].items()),
    ]
    return "\n".join(lines) + "\n"
