"""The results of a comparison of language models: per-sample file, figures and table.

Figures and table follow from the per-sample file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import contract, environment
from edge_runtime.files import write_atomically
from train.comparison.figures import ACCURACY, AREA, Candidate, compare, joint_name
from train.comparison.samples import Samples, describe_machine, render_table, save_samples
from train.comparison.scores import SPLITS
from train.errors import TrainError
from train.language.answers import UNPARSED, most_frequent
from train.language.rivals import CONTROL, UNTUNED, Query, Responses, Rival, candidate
from train.sweeps.choice import describe_difference, recommend

RESULTS_FILE = "lm-results.json"
SAMPLES_FILE = "lm-samples.npz"
TABLE_FILE = "lm.md"
MODELS, NOT_MEANINGFUL = "models", "not_meaningful"
_COLLAPSED = 0.5


@dataclass(frozen=True, kw_only=True)
class Meta:
    """The part of the results that does not follow from the samples.

    Attributes:
        task: Name of the task.
        deferral: Deferral ratio that the choice is made for.
        wall_time_s: Time of the whole comparison.
        settings: Name -> description of the models and their training.
        left_out: Rival that could not be fitted -> reason.
    """

    task: str
    deferral: float
    wall_time_s: float
    settings: Mapping[str, Any]
    left_out: Mapping[str, str] = field(default_factory=dict)


def row_name(rival: str, kind: str) -> str:
    """Return the name of a row of the table."""
    return f"{rival} + {kind}"


def rival_of(row: str) -> str:
    """Return the name of the rival that a row of the table belongs to."""
    return row.partition(" + ")[0]


_PLAIN = row_name(CONTROL, contract.NEG_ENTROPY)
_BASES = (_PLAIN, row_name(UNTUNED, contract.NEG_ENTROPY))


def gather(
    rivals: Sequence[Rival],
    responses: Mapping[Query, Sequence[Responses]],
    seeds: Sequence[int],
    *,
    from_scratch: bool,
) -> tuple[Samples, dict[str, str]]:
    """Collect the answers of all checkpoints into one per-sample file.

    Args:
        rivals: The rivals to compare.
        responses: Query -> responses, one per seed.
        seeds: The training seeds.
        from_scratch: Whether the checkpoints have never seen an instruction: some rivals are then
            marked as not meaningful.

    Returns:
        The samples, and the rivals that could not be fitted at some seed, with the reason.
    """
    candidates: dict[str, dict[str, Candidate]] = {split: {} for split in SPLITS}
    extra: dict[str, Any] = {
        MODELS: np.array(list(dict.fromkeys(rival.query.model for rival in rivals))),
        NOT_MEANINGFUL: np.array(
            [r.name for r in rivals if from_scratch and not r.is_meaningful_from_scratch], np.str_
        ),
    }
    left_out: dict[str, str] = {}
    for rival in rivals:
        runs = responses[rival.query]
        extra |= _answer_arrays(rival.name, runs)
        try:
            found = [rival.uncertainties(run) for run in runs]
        except TrainError as error:  # a table without it is better than none
            left_out[f"{type(rival).__name__} of {rival.name}"] = str(error)
            continue
        for kind in found[0]:
            for split in SPLITS:
                values = np.stack([by_kind[kind][split] for by_kind in found])
                right = np.stack([run.answers[split].right for run in runs])
                candidates[split][row_name(rival.name, kind)] = candidate(kind, values, right)
    first = next(iter(responses.values()))[0]
    samples = Samples(
        ids={s: np.array(first.answers[s].ids) for s in SPLITS},
        large=first.large,
        candidates=candidates,
        seeds=tuple(seeds),
        extra=extra,
    )
    return samples, left_out


def _answer_arrays(name: str, runs: Sequence[Responses]) -> dict[str, npt.NDArray[Any]]:
    """Return what the samples keep of a rival's answers, by split, with one row per seed.

    Codes of the answers (int32 [k, n]), their numbers of tokens (int32 [k, n]), and the time for
    all of them (float64 [k]).
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    for split in SPLITS:
        answers = [run.answers[split] for run in runs]
        arrays[f"{split}/{name}/answer"] = np.stack([a.codes for a in answers])
        arrays[f"{split}/{name}/tokens"] = np.stack([a.tokens for a in answers]).astype(np.int32)
        arrays[f"{split}/{name}/seconds"] = np.array([a.seconds for a in answers])
    return arrays


def answer_figures(samples: Samples, split: str, rival: str) -> dict[str, float]:
    """Return unparsed share, share of the most frequent answer, and speed; means over the seeds."""
    codes, tokens, seconds = (
        samples.extra[f"{split}/{rival}/{name}"] for name in ("answer", "tokens", "seconds")
    )
    return {
        "unparsed": float((codes == UNPARSED).mean()),
        "most frequent answer": float(np.mean([most_frequent(row) for row in codes])),
        "tokens/s": float(np.mean(tokens.sum(axis=1) / seconds)),
    }


def write_results(
    folder: Path, samples: Samples, meta: Meta, *, module: str = "train"
) -> dict[str, Any]:
    """Write the per-sample file, and the figures and the page that follow from it.

    Args:
        folder: The result folder; it is created if missing.
        samples: The samples, from `gather`.
        meta: The rest of the results.
        module: Module of the command that ran: `python -m module`.

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
        **derive_results(samples, meta.deferral),
    }
    write_atomically(folder / RESULTS_FILE, json.dumps(content, indent=1) + "\n")
    write_atomically(folder / TABLE_FILE, report(content))
    return content


def derive_results(samples: Samples, deferral: float) -> dict[str, Any]:
    """Return everything in the results that follows from the per-sample file.

    Args:
        samples: The samples, from `gather` or from the file.
        deferral: Deferral ratio that the choice is made for.
    """
    controls = control_rows(samples)
    compared = {
        split: compare(samples.candidates[split], samples.large[split].astype(float), controls)
        for split in SPLITS
    }
    names = dict.fromkeys(rival_of(row) for row in controls)
    chosen = _choose(samples, compared["validation"], joint_name(deferral))
    pair = {name: samples.candidates["test"][name] for name in (chosen["best"], chosen["control"])}
    gains = compare(pair, samples.large["test"].astype(float), chosen["control"])
    content = {
        "seeds": list(samples.seeds),
        "acc(M_L)": {split: float(samples.large[split].mean()) for split in SPLITS},
        **compared,
        "answers": {s: {name: answer_figures(samples, s, name) for name in names} for s in SPLITS},
        "controls": controls,
        "not_meaningful": samples.extra[NOT_MEANINGFUL].tolist(),
        "chosen": chosen,
        "chosen_minus_control": gains[chosen["best"]]["minus_control"],
    }
    return {**content, "findings": findings(content, joint_name(deferral))}


def control_rows(samples: Samples) -> dict[str, str]:
    """Return row -> row it is compared with: the control with the same confidence.

    A confidence that the control lacks is compared with the control's `neg_entropy`.
    """
    rows = samples.candidates["test"]
    own = {row: row_name(CONTROL, row.partition(" + ")[2]) for row in rows}
    return {row: control if control in rows else _PLAIN for row, control in own.items()}


def _choose(samples: Samples, validation: Mapping[str, Any], select: str) -> dict[str, str]:
    """Choose on validation: the best row of all, of the control, and of the tuned models."""
    meaningless = set(samples.extra[NOT_MEANINGFUL].tolist())
    tuned = set(samples.extra[MODELS].tolist()) - {UNTUNED, CONTROL}
    eligible = {row: v for row, v in validation.items() if rival_of(row) not in meaningless}

    def best(among: set[str]) -> str | None:
        values = {row: v["figures"][select]["value"] for row, v in eligible.items()}
        known = [row for row in eligible if rival_of(row) in among and not np.isnan(values[row])]
        return max(known, key=values.__getitem__, default=None)

    control = best({CONTROL}) or _PLAIN
    bases = [row for row in _BASES if row in eligible]
    chosen = {
        "control": control,
        "best": recommend(eligible, select=select, control=control, bases=bases),
    }
    # However much accuracy it lost: the page has to say what tuning does.
    ours = best(tuned - meaningless)
    return chosen if ours is None else chosen | {"tuned": ours}


def findings(content: Mapping[str, Any], select: str) -> list[str]:
    """Return the findings as sentences.

    Args:
        content: The figures, from `derive_results` or from the file.
        select: The figure that the choice was made by.
    """
    chosen, test = content["chosen"], content["test"]
    best, control = chosen["best"], chosen["control"]
    lines = [f"Chosen on validation: {best}; the control's best confidence: {control}."]
    large, small = content["acc(M_L)"]["test"], test[control]["figures"][ACCURACY]["value"]
    if large <= small:
        lines.append(
            f"M_L is right on {large:.1%} of the test set, the control on {small:.1%}: M_L is no "
            "better overall, so s_d is not defined. Use a better M_L."
        )
    shown = (select, AREA, "AUROC", ACCURACY)
    if best != control:
        gains = content["chosen_minus_control"]
        lines += [f"{best}: {describe_difference(f, gains[f])}" for f in shown]
    if "tuned" in chosen:
        ours = chosen["tuned"]
        lines.append(
            f"Best tuned model on validation: {ours}; it is compared with the control that uses "
            "the same confidence."
        )
        lines += [
            f"{ours}: {describe_difference(f, test[ours]['minus_control'][f])}" for f in shown
        ]
    lines += [
        f"{name} gives one and the same answer in {row['most frequent answer']:.0%} of its answers."
        for name, row in content["answers"]["test"].items()
        if row["most frequent answer"] >= _COLLAPSED
    ]
    return lines + [
        f"The figures of {name} are not meaningful: the model has never seen an instruction."
        for name in content["not_meaningful"]
    ]


def render_split(content: Mapping[str, Any], split: str = "test") -> str:
    """Render the table of a split; rivals that are not meaningful for these models are marked."""
    answers, labels = content["answers"][split], {}
    for row in content[split]:
        marked = rival_of(row) in content["not_meaningful"]
        labels[row] = f"{row} (not meaningful)" if marked else row
    columns = {
        heading: {
            label: f"{answers[rival_of(row)][heading]:{form}}" for row, label in labels.items()
        }
        for heading, form in (("unparsed", ".1%"), ("tokens/s", ".0f"))
    }
    renamed = {labels[row]: values for row, values in content[split].items()}
    return render_table(renamed, set(content["controls"].values()), columns)


def report(content: Mapping[str, Any]) -> str:
    """Render the page of the results."""
    sizes = content["sizes"]
    lines = [
        f"# Language models on {content['task']}",
        "",
        f"{sizes['validation']} validation examples to choose on, {sizes['test']} test examples to "
        f"report; seeds {content['seeds']}; acc(M_L) {content['acc(M_L)']['test']:.3f}; "
        f"{describe_machine(content['hardware'])}, {content['wall_time_s']} s, revision "
        f"{content['git_revision']}.",
        "",
        f"    {content['command']}",
        "",
        *(f"- {name}: {value}" for name, value in content["settings"].items()),
        "",
        "Brackets show the difference, in points, to the control with the same confidence (its "
        "neg_entropy if it lacks that confidence). A star marks a difference whose paired 95 % "
        "bootstrap interval over inputs and seeds excludes 0. s_o is computed on the confidence "
        "mapped to [0, 1].",
        "",
        render_split(content),
        "",
        *(f"- {line}" for line in content["findings"]),
        *(f"- Left out: {name}: {why}." for name, why in content["left_out"].items()),
    ]
    return "\n".join(lines) + "\n"
