"""Sweeps: real trainings, in one process and in several, killed and resumed; their results."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tools import processes

import benchmarks
from benchmarks.commands.cascade import CheckSettings, ReportSettings
from benchmarks.errors import CheckError
from edge_runtime.cli import main
from edge_runtime.errors import SettingError
from train import data
from train.__main__ import COMMANDS
from train.comparison.samples import read_samples
from train.comparison.scores import Scores
from train.errors import OutputError
from train.models import open_checkpoint
from train.sweeps.choice import recommend, sentences
from train.sweeps.jobs import _pair
from train.sweeps.methods import METHODS, chains, trainings
from train.sweeps.results import RESULTS_FILE, SAMPLES_FILE, _gates, report
from train.sweeps.settings import SweepSettings

METHODS_SHORT = (
    "gatekeeper:0.3,auxiliary:0.5,path,cascade_aware,average,deep_gamblers,self_adaptive"
)
SHORT = {
    "seeds": (0, 1),
    "methods": tuple(METHODS_SHORT.split(",")),
    "alphas": (0.3, 0.7),
    "fit_epochs": 6,
    "epochs": 2,
    "limit": 200,
}


def test_the_untuned_model_and_the_control_always_take_part():
    names = [t.name for t in trainings(("gatekeeper", "label_smoothing", "crossfit:0.9"), (0.1, 1))]
    assert names == [
        "untuned",
        "control",
        "gatekeeper-0.1",
        "gatekeeper-1",
        "label_smoothing",
        "crossfit-0.9",
    ]
    assert all(method.source for method in METHODS.values())


def test_a_path_goes_down_from_the_greatest_alpha():
    rows = trainings(("gatekeeper:0.5", "path"), (0.1, 0.9, 0.5))
    assert [(row.name, row.start) for row in rows[3:]] == [
        ("path-0.9", "small"),
        ("path-0.5", "path-0.9"),
        ("path-0.1", "path-0.5"),
    ]
    assert sum(row.share for row in rows[3:]) == pytest.approx(1.0)
    assert [len(chain) for chain in chains(rows)] == [1, 1, 1, 3]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"methods": ("gatekeper",)}, "expected --methods among gatekeeper"),
        ({"methods": ("gatekeeper:2",)}, r"alpha in \[0, 1\] after the colon"),
        ({"methods": ("label_smoothing:0.5",)}, "label_smoothing without an alpha, got"),
        ({"methods": ("average",), "seeds": (3,)}, r"at least two --seeds for .*, got \[3\]"),
        ({"methods": ("gatekeeper:0.5", "gatekeeper:0.5")}, "each of --methods once"),
        ({"seeds": (1, 1)}, "different --seeds"),
    ],
)
def test_flags_that_contradict_one_another_are_refused(settings, says, tmp_path):
    with pytest.raises(SettingError, match=says):
        SweepSettings(large=tmp_path, out=tmp_path, **settings)


def row(joint, accuracy=0.8, passes=1.0, s_d=0.5):
    values = {"joint accuracy at 30%": joint, "acc(M_S)": accuracy, "s_d": s_d}
    return {"passes": passes, "figures": {name: {"value": v} for name, v in values.items()}}


def test_the_choice_is_the_best_figure_within_the_limits():
    rows = {
        "untuned": row(0.90, accuracy=0.81),
        "control": row(0.91),
        "sure": row(0.92, accuracy=0.801),
        "forgetful": row(0.99, accuracy=0.799, s_d=0.9),
        "costly": row(0.95, accuracy=0.81, passes=2.0),
        "undefined": row(float("nan")),
    }
    name = "joint accuracy at 30%"
    assert recommend(rows, select=name) == "costly"
    assert recommend(rows, select=name, most_passes=1.5) == "sure"
    assert recommend(rows, select="s_d", largest_drop=1.0) == "forgetful"
    assert recommend({n: rows[n] for n in ("untuned", "control")}, select=name) == "control"
    rivals = rows | {"average": row(0.99, accuracy=0.82, passes=2.0, s_d=0.9)}
    assert recommend(rivals, select=name) == "costly"


@pytest.mark.parametrize(("large", "reported"), [(0.7, True), (0.8, True), (0.81, False)])
def test_a_large_model_that_is_no_better_is_reported(large, reported):
    none = {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    control = row(0.8, s_d=float("nan")) | {
        "minus_control": dict.fromkeys(("joint accuracy at 30%", "s_d"), none)
    }
    lines = sentences(
        {"test": {"control": control}},
        "control",
        select="joint accuracy at 30%",
        large_accuracy=large,
    )
    assert any("Use a better M_L" in line for line in lines) == reported


def test_nothing_is_claimed_of_an_s_d_that_is_not_defined():
    lost = {"value": -0.02, "low": -0.04, "high": -0.01}
    # Some draws of the bootstrap define it where the sample does not.
    odd = {"value": float("nan"), "low": -6.0, "high": -0.8}
    names = ("joint accuracy at 30%", "area under joint accuracy", "acc(M_S)")
    control, other = (
        row(0.8, s_d=float("nan")) | {"minus_control": dict.fromkeys(names, lost) | {"s_d": odd}}
        for _ in range(2)
    )
    lines = sentences(
        {"test": {"control": control, "other": other}},
        "other",
        select="joint accuracy at 30%",
        large_accuracy=0.7,
    )
    told = [line for line in lines if "s_d" in line and "M_L" not in line]
    assert told == ["On the test set its s_d or the control's is not defined."]


def test_the_average_waits_for_the_controls_of_both_seeds():
    rows = trainings(("average", "deep_gamblers"), (0.5,))
    assert [r.name for r in rows] == ["untuned", "control", "average", "deep_gamblers"]
    assert [[r.name for r in c] for c in chains(rows)] == [
        ["untuned"],
        ["control"],
        ["deep_gamblers"],
    ]


def test_after_the_last_seed_comes_the_first():
    assert [_pair((5, 1, 3), seed) for seed in (5, 1, 3)] == [(5, 1), (1, 3), (3, 5)]


def test_a_gate_that_one_seed_lacks_is_no_candidate():
    with_head, without = (
        Scores({}, {}, dict.fromkeys(gates, 1.0))
        for gates in (("max_softmax", "margin", "deferral_head"), ("max_softmax", "margin"))
    )
    assert "deferral_head" in _gates("control", [with_head, with_head])
    assert _gates("control", [with_head, without]) == ["max_softmax", "margin"]
    assert _gates("gatekeeper-0.5", [with_head, with_head]) == ["max_softmax"]


def test_the_page_names_each_gate_that_was_left_out_and_why(sweep_content):
    page = report({**sweep_content, "left_out": {"control + deferral_head, seed 1": "too few"}})
    assert page.splitlines()[-1] == "- Left out: control + deferral_head, seed 1: too few."


@pytest.fixture
def sweep_content():
    """Return the committed results of the sweep on digits."""
    folder = Path(benchmarks.__file__).parent / "results" / "sweep-digits"
    return json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sweep(models, tmp_path_factory):
    """Return the folder of a sweep in which M_L also teaches M_S."""
    out = tmp_path_factory.mktemp("sweep") / "sweep"
    SweepSettings(large=models[1], teacher=models[1], out=out, **SHORT).run()
    return out


@pytest.mark.slow
def test_a_sweep_has_every_candidate_on_every_input(sweep):
    samples = read_samples(sweep / SAMPLES_FILE)
    names = set(samples.candidates["test"])
    assert {"untuned + entropy", "control + mirror", "gatekeeper-0.3", "auxiliary-0.5"} <= names
    assert {"untuned + deferral_head", "control + deferral_head"} <= names
    assert not {"gatekeeper-0.3 + entropy", "gatekeeper-0.3 + deferral_head"} & names
    for split in ("validation", "test"):
        assert samples.large[split].shape == (200,)
        assert samples.candidates[split]["control"].right.shape == (2, 200)
    control = samples.candidates["test"]["control"]
    again = open_checkpoint(sweep / "seed-1" / "control")
    test = data.load("digits", limit=200).test
    right = again.predict(test.inputs).argmax(axis=-1) == test.labels
    np.testing.assert_array_equal(control.right[1], right)


@pytest.mark.slow
def test_stage_1_of_a_sweep_is_distilled_from_its_teacher(sweep, models):
    record = json.loads((sweep / "seed-0" / "small" / "training.json").read_text())
    assert record["settings"]["teacher"] == str(models[1])
    assert not list(sweep.glob("seed-*/.small.teacher.npz"))


@pytest.mark.slow
def test_the_average_is_that_of_two_controls(sweep):
    samples = read_samples(sweep / SAMPLES_FILE)
    controls = [open_checkpoint(sweep / f"seed-{seed}" / "control") for seed in (0, 1)]
    splits = data.load("digits", limit=200)
    for split in ("validation", "test"):
        part = getattr(splits, split)
        # In torch, and by 1 - max p, which cancels: to 1e-6 alone.
        logits = [torch.from_numpy(c.predict(part.inputs)).double() for c in controls]
        p = (logits[0].softmax(dim=1) + logits[1].softmax(dim=1)) / 2
        average = samples.candidates[split]["average"]
        assert average.passes == 2.0
        assert average.is_probability
        for row in (0, 1):  # of two seeds, each is the other's neighbour
            right = p.argmax(dim=1).numpy() == part.labels
            np.testing.assert_array_equal(average.right[row], right)
            doubt = 1 - p.max(dim=1).values.numpy()
            np.testing.assert_allclose(average.uncertainty[row], doubt, atol=1e-6)
        control = samples.candidates[split]["control"]
        assert not np.allclose(average.uncertainty[0], control.uncertainty[0], atol=1e-3)
    content = json.loads((sweep / "sweep-results.json").read_text())
    assert content["test"]["average"]["figures"]["acc(M_S)"]["value"] == pytest.approx(right.mean())
    assert any("never chosen, because a bundle holds one model" in f for f in content["findings"])
    names = set(samples.candidates["test"])
    assert {"deep_gamblers", "self_adaptive", "self_adaptive + mirror"} <= names
    assert "average + mirror" not in names


@pytest.mark.slow
def test_a_finished_sweep_gives_its_table_without_training_again(sweep, models, capsys):
    before = {p: p.stat().st_mtime_ns for p in sweep.rglob("*.safetensors")}
    again = {"large": models[1], "teacher": models[1]}
    SweepSettings(**again, out=sweep, **SHORT).run()
    assert {p: p.stat().st_mtime_ns for p in sweep.rglob("*.safetensors")} == before
    assert "| control | 1.00 |" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_of_other_settings_or_data_is_refused(sweep, models, tmp_path):
    again = {"large": models[1], "teacher": models[1]}
    with pytest.raises(OutputError, match="got others for epochs"):
        SweepSettings(**again, out=sweep, **{**SHORT, "epochs": 3}).run()
    copy = shutil.copytree(sweep, tmp_path / "copy")
    record = json.loads((copy / "sweep.json").read_text())
    (copy / "sweep.json").write_text(json.dumps({**record, "data_sha256": "0"}))
    with pytest.raises(OutputError, match="has changed since"):
        SweepSettings(**again, out=copy, **SHORT).run()
    for damaged in ("[]", '{"data_sha256": ""}', '{"data_sha256": "", "settings": 3}'):
        (copy / "sweep.json").write_text(damaged)
        with pytest.raises(OutputError, match=r"expected the record of a sweep at .*damaged"):
            SweepSettings(**again, out=copy, **SHORT).run()
    (copy / "sweep.json").write_text(json.dumps(record))
    record_of_a_run = next(copy.rglob("control/training.json"))
    record_of_a_run.write_text("[]")
    with pytest.raises(OutputError, match=r"expected the record of a training at .*trains it"):
        SweepSettings(**again, out=copy, **SHORT).run()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match="got other files"):
        SweepSettings(**again, out=tmp_path / "folder", **SHORT).run()


@pytest.mark.slow
def test_recommend_shows_the_choice_next_to_the_control(sweep, capsys):
    assert main("python -m train", COMMANDS, argv=["recommend", "--sweep", str(sweep)]) == 0
    out = capsys.readouterr().out
    assert "Chosen on validation by joint accuracy at 30%" in out
    assert "control" in out.splitlines()[0]
    line = ["recommend", "--sweep", str(sweep), "--select", "joint_acuracy@0.3"]
    assert main("python -m train", COMMANDS, argv=line) == 2


@pytest.mark.slow
def test_check_recomputes_a_sweep_and_finds_a_touched_figure(sweep, tmp_path, capsys):
    CheckSettings(folders=(sweep,)).run()
    assert "figures recomputed" in capsys.readouterr().out
    copy = shutil.copytree(sweep, tmp_path / "copy", ignore=shutil.ignore_patterns("seed-*"))
    file = copy / "sweep-results.json"
    content = json.loads(file.read_text())
    content["test"]["control"]["figures"]["AUROC"]["value"] += 1e-6
    file.write_text(json.dumps(content))
    with pytest.raises(CheckError, match="AUROC"):
        CheckSettings(folders=(copy,)).run()


@pytest.mark.slow
def test_the_pictures_of_a_sweep_are_drawn(tmp_path):
    folder = Path(benchmarks.__file__).parent / "results" / "sweep-tinyimagenet-20"
    for name in (RESULTS_FILE, SAMPLES_FILE):
        shutil.copy(folder / name, tmp_path)
    ReportSettings(folders=(tmp_path,)).run()
    assert all((tmp_path / f"{n}.png").stat().st_size > 20_000 for n in ("pareto", "alphas"))


@pytest.mark.slow
def test_a_killed_sweep_continues_where_it_stopped(models, tmp_path):
    out = tmp_path / "sweep"
    flags = {"seeds": "0", "fit-epochs": 2, "epochs": 2, "limit": 60}
    flags |= {"methods": "gatekeeper:0.5,label_smoothing,deep_gamblers"}
    line = ["sweep", "--large", models[1], "--out", out]
    line += [word for name, value in flags.items() for word in (f"--{name}", value)]
    process = processes.start("train", *line)
    processes.wait_for((out / "seed-0" / "control.scores.npz").exists, process)
    process.kill()
    process.communicate(timeout=60)
    kept = (out / "seed-0" / "control.scores.npz").stat().st_mtime_ns
    assert not (out / "sweep-results.json").exists()
    argv = [*map(str, line), "--jobs=2"]
    assert main("python -m train", COMMANDS, argv=argv) == 0
    assert (out / "seed-0" / "control.scores.npz").stat().st_mtime_ns == kept
    assert (out / "sweep-results.json").exists()
