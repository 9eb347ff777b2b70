"""What the user gets comes first and is true, also where a cascade is no good."""

import json
import re
import shutil

import pytest
from tools.results import make_results, write_results

from benchmarks.cascade import report
from benchmarks.cascade.check import COMMITTED
from benchmarks.cascade.outcome import Outcome
from benchmarks.cascade.samples import read_samples, write_samples
from benchmarks.commands.cascade import CheckSettings, ReportSettings
from benchmarks.errors import CheckError

SIDES = {"edge_share": 0.7, "edge_ms": 0.041, "sent_bytes": 60.0}
SIDES |= {"edge": (0.05, 0.2), "deferred": (3.1, 42.2), "both": (0.98, 31.0)}


@pytest.mark.parametrize(
    ("small", "large", "joint", "says"),
    [
        (
            0.92,
            0.989,
            0.988,
            "The cascade reaches M_L's accuracy (0.988 of 0.989) and answers 70 % of the inputs on "
            "the device in 0.041 ms.",
        ),
        (
            0.7,
            0.9,
            0.91,
            "The cascade exceeds M_L's accuracy (0.910, M_L 0.900) and answers 70 % of the inputs "
            "on the device in 0.041 ms.",
        ),
        (
            0.7,
            0.9,
            0.82,
            "The cascade is right on 0.820 of the inputs, M_S alone on 0.700 and M_L alone on "
            "0.900; it answers 70 % of the inputs on the device in 0.041 ms.",
        ),
        (0.7, 0.9, 0.69, "The cascade is right on 0.690 of the inputs, no more than M_S alone"),
        (0.7, 0.7, 0.7, "deferring can only lose. Take a better M_L."),
    ],
)
def test_the_first_sentence_says_what_the_user_gets(small, large, joint, says):
    assert says in Outcome(small=small, large=large, joint=joint, **SIDES).sentence()


def test_the_first_table_has_a_row_for_each_way_to_answer():
    table = Outcome(small=0.92, large=0.989, joint=0.988, **SIDES).table()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[2:] == [
        ["M_S alone", "0.920", "0.050 ms", "0.20 ms", "0", "0"],
        # All 60 bytes an input are of the 30 % that are deferred.
        ["M_L for everything", "0.989", "3.1 ms", "42 ms", "1,000", "200,000"],
        ["the cascade", "0.988", "0.98 ms", "31 ms", "300", "60,000"],
    ]


def test_where_nothing_was_deferred_the_cost_of_the_large_model_is_unknown():
    sides = {"edge_share": 1.0, "edge_ms": 12.34, "edge": (12.34, 15.0), "sent_bytes": 0.0}
    table = Outcome(small=0.7, large=0.9, joint=0.7, **sides).table()
    assert re.search(r"M_L for everything \| 0.900 +\| - +\| - +\| 1,000 +\| - ", table)
    assert "12 ms" in table


@pytest.mark.parametrize(
    ("gain", "s_d", "says"),
    [
        ((0.01, 0.02), (0.0, 0.0), "tuning raises the user's joint accuracy"),
        ((-0.02, -0.01), (0.0, 0.0), "tuning lowers the joint accuracy: ship the control"),
        ((-0.02, -0.01), (0.1, 0.2), "s_d rose, but the user lost joint accuracy: do not ship"),
        ((-0.01, 0.01), (0.1, 0.2), "tuning makes no difference beyond the noise"),
    ],
)
def test_the_conclusion_is_what_the_user_gains_over_the_control(gain, s_d, says):
    first, *_ = report.conclusions(
        make_results(small=0.7, large=0.9, joint=0.8, gain=gain, s_d=s_d)
    )
    assert says in first


@pytest.mark.parametrize(
    ("small", "large", "more", "says"),
    [
        (0.9, 0.7, {}, "deferring can only lose, and s_d is not defined"),
        (0.85, 0.9, {}, "less than 8 points apart"),
        (0.7, 0.9, {"stopped": {"tuned, seed 0": "stopped"}}, "The guard ended tuned, seed 0: st"),
        (0.7, 0.9, {"training_accuracy": 0.995}, "M_S was right on 99.5 % of its training"),
    ],
)
def test_results_with_little_to_gain_give_the_reason(small, large, more, says):
    lines = report.conclusions(make_results(small=small, large=large, joint=0.8, **more))
    assert len(lines) == 2
    assert says in lines[1]


def test_a_command_ends_with_the_user_first_and_the_trainings_after(tmp_path):
    text = report.summary(tmp_path, make_results(small=0.7, large=0.9, joint=0.8, stream="more"))
    marks = ["The cascade is right", "M_L alone", "(small-cnn, tuned)", "- control: M_S after as"]
    marks += ["without the harvest", "area under joint accuracy", "- Compared with", str(tmp_path)]
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)
    assert "tuned is not" not in text  # the differences one by one are in the report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_results(tmp_path_factory.mktemp("results"))


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def change(copy, edit):
    """Let a function change the content of `results.json`."""
    content = json.loads((copy / "results.json").read_text())
    edit(content)
    (copy / "results.json").write_text(json.dumps(content))


@pytest.mark.slow
def test_the_page_leads_with_what_the_user_gets_and_ends_with_the_pictures(folder):
    page = (folder / "report.md").read_text()
    marks = ["# Cascade on digits", "M_S alone", "control: M_S after", "s_d: tuned is not", ".png"]
    places = [page.index(mark) for mark in marks]
    assert places == sorted(places)
    assert page.count(".png") == len(list(folder.glob("*.png"))) == 4


@pytest.mark.slow
def test_samples_are_read_as_they_were_written(folder, tmp_path):
    found = read_samples(folder / "samples.csv.gz")
    write_samples(tmp_path / "samples.csv.gz", found)
    assert (tmp_path / "samples.csv.gz").read_bytes() == (folder / "samples.csv.gz").read_bytes()
    assert found["tuned"].answer_quality.mean() == 0.8


def touch_figure(content):
    content["variants"]["tuned"]["figures"]["acc(M_S)"]["value"] += 1e-6


def touch_sentence(content):
    content["findings"][0] = "Everything is better."


def lose_figure(content):
    del content["tuned_minus"]["control"]["s_d"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (touch_figure, r"acc\(M_S\): value: the samples give 0\.7, the file says 0\.70000"),
        (touch_sentence, "findings: 0: the samples give"),
        (lose_figure, "expected 's_d' in its results"),
    ],
)
def test_check_finds_what_does_not_follow_from_the_samples(copy, edit, says):
    CheckSettings(folders=(copy,)).run()
    change(copy, edit)
    with pytest.raises(CheckError, match=says):
        CheckSettings(folders=(copy,)).run()


@pytest.mark.slow
def test_check_finds_a_page_that_shows_something_else(copy):
    page = copy / "report.md"
    page.write_text(page.read_text().replace("0.800", "0.900"))
    with pytest.raises(CheckError, match="run `python -m benchmarks report"):
        CheckSettings(folders=(copy,)).run()


@pytest.mark.slow
def test_report_writes_sentences_page_and_pictures_anew_and_keeps_the_figures(folder, copy, capsys):
    change(copy, touch_sentence)
    (copy / "report.md").unlink()
    (copy / "roc.png").unlink()
    ReportSettings(folders=(copy,)).run()
    assert "report.md" in capsys.readouterr().out
    for name in ("results.json", "report.md"):
        assert (copy / name).read_text() == (folder / name).read_text()
    assert (copy / "roc.png").is_file()
    change(copy, touch_figure)
    with pytest.raises(CheckError, match="the samples give"):
        ReportSettings(folders=(copy,)).run()


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("README.md", "digits"),
        ("docs/results.md", "digits"),
        ("docs/results.md", "cifar10-jpeg"),
        ("docs/results.md", "clinc150"),
    ],
)
def test_a_page_shows_the_first_table_of_the_committed_results(page, name):
    report_page = (COMMITTED / name / "report.md").read_text()
    first, _ = report_page.split("\n\nM_S is the small model")
    table = first.split("\n\n")[-1]
    assert table.splitlines()[-1].startswith("| the cascade ")
    assert table in (COMMITTED.parents[1] / page).read_text()
