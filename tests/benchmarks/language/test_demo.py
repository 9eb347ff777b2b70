"""`demo --task` runs language models, and every figure follows from its per-sample file."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from tools.things import new_language_model, write_task

from benchmarks.commands.cascade import CheckSettings, DemoSettings
from benchmarks.errors import CheckError
from benchmarks.language.demo import chain, report
from benchmarks.language.demo.cascades import choose_small_models
from benchmarks.language.demo.table import variants
from benchmarks.language.demo.transcripts import read_transcripts, save_transcripts
from edge_runtime import metrics
from edge_runtime.errors import SettingError
from train.comparison.samples import read_samples
from train.errors import CheckpointError
from train.language.answers import load_answers
from train.language.settings import FitLanguageSettings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Return the result folder of a half trained M_S and a trained M_L."""
    root = tmp_path_factory.mktemp("language-demo")
    task = str(write_task(root / "things"))
    for name, epochs in (("small", 8), ("large", 20)):
        start = new_language_model(task, root / f"{name}-new", "llama")
        FitLanguageSettings(
            checkpoint=start, task=task, out=root / name, epochs=epochs, batch_size=8
        ).run()
    settings = DemoSettings(
        task=task,
        small=str(root / "small"),
        large=str(root / "large"),
        steps=20,
        seeds=(0,),
        out=root / "out",
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        for module in (chain, report):  # every export takes seconds
            monkeypatch.setattr(module, "choose_small_models", first_two)
        settings.run()
        yield root / "out"


def first_two(*arguments):
    return choose_small_models(*arguments)[:2]


def test_the_demo_leaves_models_answers_pages_and_pictures(demo):
    for name in ("control", "gatekeeper-0.3", "gatekeeper-0.5", "gatekeeper-0.6"):
        assert (demo / name / "model.safetensors").is_file()
        assert load_answers(demo / "answers" / f"{name}-test.npz").right.size == 24
    for name in ("deferral", "densities", "roc", "latency"):
        assert (demo / f"{name}.png").stat().st_size > 10_000
    assert (demo / "bundle-control-neg_entropy" / "bundle.json").is_file()
    content = json.loads((demo / "results.json").read_text())
    assert list(content["variants"]) == ["untuned", "control", "tuned"]
    assert "tokens/s of M_S" in (demo / "report.md").read_text()


def test_the_table_has_every_rival_by_every_confidence(demo):
    rows = json.loads((demo / "lm-results.json").read_text())["test"]
    for model in ("untuned", "control", "gatekeeper-0.3", "gatekeeper-0.5"):
        assert {f"{model} + {kind}" for kind in metrics.SEQUENCE_KINDS} <= set(rows)
    assert "answer_n + not_n" in rows
    assert "reduce_confidence + neg_entropy" in rows


def test_the_demos_rows_are_the_answers_of_the_models(demo):
    rows, chosen = variants(read_samples(demo / "lm-samples.npz"), 0.3)
    assert chosen in {"gatekeeper-0.3", "gatekeeper-0.5", "gatekeeper-0.6"}
    large = load_answers(demo / "answers" / "large-test.npz").right
    for name, model in (("untuned", "untuned"), ("control", "control"), ("tuned", chosen)):
        answers = load_answers(demo / "answers" / f"{model}-test.npz")
        np.testing.assert_array_equal(rows[name].small_quality[:, 0], answers.right)
        unit = metrics.unit_neg_entropy(answers.confidence["neg_entropy"], 300)
        np.testing.assert_allclose(rows[name].confidence[:, 0], unit, atol=1e-6)
        deferred = rows[name].deferred[:, 0] > 0
        expected = np.where(deferred, large, answers.right)
        np.testing.assert_array_equal(rows[name].answer_quality[:, 0], expected)
        if deferred.any():
            surest = rows[name].confidence[deferred, 0].max()
            assert surest < rows[name].confidence[~deferred, 0].min()


def test_the_running_cascades_answer_as_their_models_do(demo):
    transcripts = read_transcripts(demo / "cascade-samples.npz")
    large = load_answers(demo / "answers" / "large-test.npz").right
    rows = variants(read_samples(demo / "lm-samples.npz"), 0.3)[0]
    for (name, one), row in zip(transcripts.items(), ("control", "tuned"), strict=False):
        small = load_answers(demo / "answers" / f"{name.partition(' + ')[0]}-test.npz").right
        # Float32 in two libraries: an answer on the edge may fall the other way.
        assert one.same.mean() > 0.9
        assert one.same_small.mean() > 0.9
        assert (one.deferred == rows[row].deferred.T).mean() > 0.9
        expected = np.where(one.deferred[0], large, small)
        np.testing.assert_array_equal(one.right[0][one.same[0]], expected[one.same[0]])


@pytest.mark.parametrize(
    ("best", "further"),
    [
        ("gatekeeper-0.3 + min_prob", ["gatekeeper-0.3 + min_prob"]),
        ("control + neg_entropy", []),
        ("control + token_quantiles", []),
    ],
)
def test_validations_choice_ships_if_it_is_another_and_a_graph_holds_it(demo, best, further):
    samples = read_samples(demo / "lm-samples.npz")
    names = [model.name for model in choose_small_models(samples, {"best": best}, 0.3)]
    assert names[0] == "control + neg_entropy"
    assert names[2:] == further


def test_stopping_a_generation_early_saves_tokens_and_changes_no_decision(demo):
    for one in read_transcripts(demo / "cascade-samples.npz").values():
        np.testing.assert_array_equal(one.deferred, one.whole_deferred)
        assert (one.tokens <= one.whole_tokens).all()
        np.testing.assert_array_equal(one.tokens[~one.deferred], one.whole_tokens[~one.deferred])
        assert (one.verdict_ms <= one.text_ms).all()


def copied(demo, folder):
    folder.mkdir()
    for name in (
        "results.json",
        "lm-results.json",
        "lm-samples.npz",
        "cascade-samples.npz",
        "report.md",
        "lm.md",
    ):
        shutil.copy(demo / name, folder)
    return folder


def first_cascade(content):
    return next(iter(content["cascades"]["figures"].values()))


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("results.json", lambda c: c["variants"]["tuned"]["figures"]["acc(M_S)"]),
        ("results.json", lambda c: first_cascade(c)["joint accuracy"]),
        ("lm-results.json", lambda c: c["test"]["untuned + min_prob"]["figures"]["acc(M_S)"]),
    ],
)
def test_check_finds_a_touched_figure_in_every_table(demo, file, place, tmp_path):
    copy = copied(demo, tmp_path / "copy")
    content = json.loads((copy / file).read_text())
    place(content)["value"] += 1e-6
    (copy / file).write_text(json.dumps(content))
    with pytest.raises(CheckError):
        CheckSettings(folders=(copy,)).run()


def test_check_finds_a_touched_sample_and_a_touched_page_of_the_cascades(demo, tmp_path, capsys):
    CheckSettings(folders=(demo,)).run()
    assert "all as printed" in capsys.readouterr().out
    copy = copied(demo, tmp_path / "copy")
    page = (copy / "report.md").read_text()
    (copy / "report.md").write_text(page.replace("decisions changed by it", "decisions"))
    with pytest.raises(CheckError, match=r"report\.md does not show"):
        CheckSettings(folders=(copy,)).run()
    (copy / "report.md").write_text(page)
    transcripts = read_transcripts(copy / "cascade-samples.npz")
    name, one = next(iter(transcripts.items()))
    touched = dataclasses.replace(one, right=~one.right)
    save_transcripts(copy / "cascade-samples.npz", {**transcripts, name: touched})
    with pytest.raises(CheckError, match="joint accuracy"):
        CheckSettings(folders=(copy,)).run()


def test_a_folder_without_a_language_model_is_refused_before_the_training(demo, tmp_path):
    task = str(demo.parent / "things")
    settings = DemoSettings(task=task, small=str(tmp_path), out=tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"with a config\.json, at"):
        settings.run()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"task": "t", "alpha": 0.3}, "--alpha works only without --task"),
        ({"task": "t", "large_data": "cifar10"}, "--large-data works only without --task"),
        ({"steps": 20}, "--steps works only with --task"),
    ],
)
def test_a_flag_that_nothing_would_read_is_refused(settings, says):
    with pytest.raises(SettingError, match=says):
        DemoSettings(**settings)
