"""Results of language models: all that is printed follows from the per-sample file."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tools.colours import answers

from benchmarks.commands.cascade import CheckSettings
from benchmarks.errors import CheckError
from train.comparison.figures import figures
from train.comparison.samples import read_samples
from train.language.answers import most_frequent
from train.language.results import (
    RESULTS_FILE,
    SAMPLES_FILE,
    TABLE_FILE,
    Meta,
    derive_results,
    gather,
    render_split,
    write_results,
)
from train.language.rivals import Responses, all_rivals

pytestmark = [pytest.mark.once, pytest.mark.slow]
SEEDS = (0, 1)
N = 120
MODELS = ("untuned", "control", "gatekeeper-0.3")


def one_run(generator, large, *, signal, watched=False):
    """Return the responses of a model whose log-probabilities reveal `signal` of its errors."""
    split = {}
    for name in ("validation", "test"):
        right = np.arange(N) % 5 < 3  # all models are equally accurate
        lowest = -generator.exponential(1.0, N) - signal * ~right
        logprob = np.column_stack([lowest, lowest * generator.random(N)])
        texts = np.where(right, " red", np.where(generator.random(N) < 0.5, " green", " ?"))
        doubt = np.log(generator.random(N)) if watched else None
        split[name] = answers(logprob, right, texts=texts, watched=doubt)
    return Responses(split, large, 50)


@pytest.fixture(scope="module")
def gathered():
    generator = np.random.default_rng(5)
    large = {split: generator.random(N) < 0.9 for split in ("validation", "test")}
    rivals = all_rivals(MODELS)
    signals = {"untuned": 0.5, "control": 0.5, "gatekeeper-0.3": 4.0}
    responses = {
        query: [
            one_run(
                generator,
                large,
                signal=signals[query.model],
                watched=query.watch is not None,
            )
            for _ in SEEDS
        ]
        for query in dict.fromkeys(rival.query for rival in rivals)
    }
    return rivals, responses, gather(rivals, responses, SEEDS, from_scratch=True)


@pytest.fixture(scope="module")
def few(gathered):
    """Return the samples of five rows, which take a fraction of the time."""
    samples = gathered[2][0]
    rows = [*(f"{m} + neg_entropy" for m in MODELS[:2]), "answer_n + not_n"]
    rows += [f"{m} + mean_logprob" for m in MODELS[1:]]
    kept = {s: {row: found[row] for row in rows} for s, found in samples.candidates.items()}
    return replace(samples, candidates=kept)


@pytest.fixture(scope="module")
def few_folder(few, tmp_path_factory):
    out = tmp_path_factory.mktemp("lm-few")
    write_results(out, few, Meta(task="colours", deferral=0.3, wall_time_s=1.0, settings={}))
    return out


@pytest.fixture(scope="module")
def folder(gathered, tmp_path_factory):
    samples, left_out = gathered[2]
    out = tmp_path_factory.mktemp("lm") / "results"
    meta = Meta(task="colours", deferral=0.3, wall_time_s=1.5, settings={"M_S": "made by hand"})
    write_results(out, samples, replace(meta, left_out=left_out))
    return out


@pytest.fixture(scope="module")
def content(folder):
    return json.loads((folder / RESULTS_FILE).read_text())


def test_every_rival_has_a_row_for_every_confidence(content):
    kinds = ("neg_entropy", "mean_logprob", "sum_logprob", "min_prob", "max_softmax")
    assert list(content["test"]) == [
        *(f"{m} + {k}" for m in MODELS for k in (*kinds, "token_quantiles")),
        *(f"reduce_confidence + {k}" for k in kinds),
        "answer_n + not_n",
    ]
    assert content["left_out"] == {}
    for row in content["test"].values():
        assert not np.isnan(row["figures"]["s_o"]["value"])


def test_a_row_is_compared_with_the_control_with_the_same_confidence(content, gathered):
    controls = content["controls"]
    assert controls["gatekeeper-0.3 + min_prob"] == "control + min_prob"
    assert controls["untuned + token_quantiles"] == "control + token_quantiles"
    assert controls["reduce_confidence + sum_logprob"] == "control + sum_logprob"
    assert controls["answer_n + not_n"] == "control + neg_entropy"
    test = content["test"]
    gain = test["gatekeeper-0.3 + min_prob"]["minus_control"]["AUROC"]["value"]
    rows = [test[f"{m} + min_prob"]["figures"]["AUROC"]["value"] for m in MODELS[1:]]
    assert gain == pytest.approx(rows[1] - rows[0])
    samples = gathered[2][0]
    large = samples.large["test"].astype(float)
    for name, one in samples.candidates["test"].items():
        found = {f: v["value"] for f, v in test[name]["figures"].items()}
        assert found == pytest.approx(figures(one, large))


def test_the_best_of_all_of_the_control_and_of_the_tuned_is_named(content):
    assert content["chosen"]["best"].startswith("gatekeeper-0.3 + ")
    assert content["chosen"]["tuned"] == content["chosen"]["best"]
    assert content["chosen"]["control"].startswith("control + ")


def test_no_answer_of_the_test_split_changes_the_choice(few):
    turned = {name: replace(one, right=~one.right) for name, one in few.candidates["test"].items()}
    other = replace(few, candidates={**few.candidates, "test": turned})
    assert derive_results(other, 0.3)["chosen"] == derive_results(few, 0.3)["chosen"]


def test_rows_that_are_not_meaningful_are_marked(content):
    assert "| answer_n + not_n (not meaningful) |" in render_split(content)
    assert "(not meaningful)" not in "".join(
        line for line in render_split(content).splitlines() if line.startswith("| untuned")
    )


def test_rows_that_are_not_meaningful_are_never_chosen(few):
    # Even with perfect knowledge it is not chosen.
    knowing = {
        split: {
            name: replace(one, uncertainty=(~one.right & few.large[split]).astype(np.float32))
            if name == "answer_n + not_n"
            else one
            for name, one in found.items()
        }
        for split, found in few.candidates.items()
    }
    perfect = replace(few, candidates=knowing)
    assert derive_results(perfect, 0.3)["chosen"]["best"] == "gatekeeper-0.3 + mean_logprob"
    meant = replace(perfect, extra={**perfect.extra, "not_meaningful": np.array([], str)})
    assert derive_results(meant, 0.3)["chosen"]["best"] == "answer_n + not_n"


def test_the_table_shows_unparsed_answers_and_speed(content, gathered):
    runs = gathered[1][gathered[0][0].query]
    unparsed = np.mean([[t == " ?" for t in run.answers["test"].texts] for run in runs])
    row = next(r for r in render_split(content).splitlines() if r.startswith("| untuned + neg"))
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[2] == f"{unparsed:.1%}"
    assert cells[3] == f"{N * 2 / 2.0:.0f}"  # two tokens per answer, in two seconds


def test_samples_survive_saving_and_loading(folder, gathered):
    samples, read = gathered[2][0], read_samples(folder / SAMPLES_FILE)
    assert read.seeds == SEEDS
    for name, one in samples.candidates["test"].items():
        again = read.candidates["test"][name]
        np.testing.assert_array_equal(again.uncertainty, one.uncertainty)
        np.testing.assert_array_equal(again.right, one.right)
        assert (again.is_probability, again.is_logarithm) == (one.is_probability, one.is_logarithm)
    for name, values in samples.extra.items():
        np.testing.assert_array_equal(read.extra[name], values)


def test_check_recomputes_everything(folder, capsys):
    CheckSettings(folders=(folder,)).run()
    assert "figures recomputed, all as printed" in capsys.readouterr().out


def set_gain(content):
    content["chosen_minus_control"]["AUROC"]["low"] += 1e-6


def set_answers(content):
    content["answers"]["test"]["untuned"]["unparsed"] = 0.0


def set_finding(content):
    content["findings"][0] = "All is well."


@pytest.mark.parametrize("change", [set_gain, set_answers, set_finding])
def test_check_finds_a_changed_figure_or_sentence(few_folder, tmp_path, change):
    changed = json.loads((few_folder / RESULTS_FILE).read_text())
    change(changed)
    for name in (SAMPLES_FILE, TABLE_FILE):
        (tmp_path / name).write_bytes((few_folder / name).read_bytes())
    (tmp_path / RESULTS_FILE).write_text(json.dumps(changed))
    with pytest.raises(CheckError, match=r"the samples give|does not follow"):
        CheckSettings(folders=(tmp_path,)).run()


def test_check_reads_the_page(few_folder, tmp_path):
    for name in (SAMPLES_FILE, RESULTS_FILE):
        (tmp_path / name).write_bytes((few_folder / name).read_bytes())
    page = (few_folder / TABLE_FILE).read_text().replace("gatekeeper-0.3", "gatekeeper-0.4", 1)
    (tmp_path / TABLE_FILE).write_text(page)
    with pytest.raises(CheckError, match="does not show"):
        CheckSettings(folders=(tmp_path,)).run()


def test_a_rule_that_cannot_be_fitted_is_left_out_with_the_reason(gathered, tmp_path):
    rivals, responses, _ = gathered
    rivals = [rival for rival in rivals if rival.name in {"untuned", "control"}]
    never = {
        query: [replace(run, large={s: np.zeros(N, bool) for s in run.large}) for run in runs]
        for query, runs in responses.items()
    }
    samples, left_out = gather(rivals, never, SEEDS, from_scratch=True)
    assert list(left_out) == [f"TokenQuantiles of {m}" for m in MODELS[:2]]
    assert not any("token_quantiles" in name for name in samples.candidates["test"])
    content = write_results(
        tmp_path,
        samples,
        Meta(task="c", deferral=0.3, wall_time_s=1.0, settings={}, left_out=left_out),
    )
    page = (tmp_path / TABLE_FILE).read_text()
    assert "- Left out: TokenQuantiles of control: expected at least 5 inputs" in page
    assert any("M_L is no better overall" in line for line in content["findings"])


def test_a_collapsed_model_is_a_finding(few):
    alike = np.where(np.arange(N) < N // 10, 1, 0).astype(np.int32)
    extra = {**few.extra, "test/gatekeeper-0.3/answer": np.tile(alike, (2, 1))}
    found = derive_results(replace(few, extra=extra), 0.3)["findings"]
    assert "gatekeeper-0.3 gives one and the same answer in 90% of its answers." in found


def test_the_most_frequent_answer_is_counted_among_those_that_parse():
    parsed = ("red", None, "blue", "red", None, "red")
    codes = replace(answers(np.zeros((6, 1)), np.ones(6)), parsed=parsed).codes
    assert codes.tolist() == [0, -1, 1, 0, -1, 0]
    assert most_frequent(codes) == 3 / 4
    assert np.isnan(most_frequent(np.array([-1, -1])))
