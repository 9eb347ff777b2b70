"""Figures with limits: printed, written, checked against their samples, and shown as a table."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import linregress

from benchmarks.errors import CheckError
from benchmarks.figures import STATISTICS, Figure, check, holds_figures, slope, table, write_figures

FIGURE = Figure("edge call", 12.5, 15.0, "us", "50 and 62.5 us")
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_a_figure_keeps_its_limit_or_misses_it():
    assert FIGURE.is_met
    assert replace(FIGURE, value=15.0).is_met
    assert not replace(FIGURE, value=15.1).is_met
    least = replace(FIGURE, limit=0.95, at_least=True)
    assert least.is_met
    assert not replace(least, value=0.94).is_met
    assert replace(FIGURE, value=None).is_met is None


def test_a_figure_is_printed_with_its_limit():
    line = " ".join(FIGURE.line().split())
    assert line == "edge call 12.500 us limit 15 met (50 and 62.5 us)"
    assert "MISSED" in replace(FIGURE, value=20.0).line()
    assert " 6.9e-05 " in replace(FIGURE, value=6.9e-5).line()
    assert " 0.000 " in replace(FIGURE, value=0.0).line()
    assert "at least 0.95" in replace(FIGURE, limit=0.95, at_least=True).line()
    assert "- us  limit 15  not measured  (no such library)" in (
        replace(FIGURE, value=None, detail="no such library").line()
    )


def test_figures_are_written_as_plain_json(tmp_path):
    never = replace(FIGURE, value=float("inf"))
    write_figures(tmp_path / "f.json", [FIGURE, replace(FIGURE, value=None), never])
    content = json.loads((tmp_path / "f.json").read_text())
    assert [f["met"] for f in content["figures"]] == [True, None, False]
    assert [f["value"] for f in content["figures"]] == [12.5, None, None]
    assert content["hardware"]["cores"] >= 1


def test_the_slope_is_that_of_least_squares(generator):
    x = np.arange(50.0) * 1000
    y = 3.5 * x + generator.normal(size=50)
    expected = linregress(x, y)
    assert slope(x, y) == pytest.approx((expected.slope, expected.stderr))
    assert slope(x, np.full(50, 7.0)) == (0.0, 0.0)


def test_a_share_is_of_all_parts_in_all_wholes_and_the_greatest_is_never_hidden():
    assert STATISTICS["share"]([(1, 2), (2, 10)]) == 3 / 12
    assert STATISTICS["share"]([(0, 0)]) == 0
    assert STATISTICS["greatest"]([1.0, 3.0, 2.0]) == 3
    assert math.isnan(STATISTICS["greatest"]([1.0, math.nan]))


def test_a_figure_that_does_not_follow_from_its_samples_is_found(tmp_path):
    out = tmp_path / "f.json"
    rising = [[100, 10], [200, 30], [300, 50]]
    figures = [
        Figure.of("median", [1.0, 5.0, 2.0], 3.0, "ms", ""),
        Figure.of("sum", [0, 1], 0, "", "", statistic="sum"),
        Figure.of("slope", rising, 1.0, "B", "", statistic="slope"),
        Figure("never", math.inf, 1.0, "s", ""),
        Figure("not made", None, 1.0, "s", ""),
        Figure("no limit", 4.0, None, "s", ""),
    ]
    write_figures(out, figures)
    assert [figure.value for figure in figures[:3]] == [2.0, 1, pytest.approx(0.2)]
    assert check(out) == 6
    content = json.loads(out.read_text())
    for number, change, says in [
        (0, {"value": 2.5}, "the samples give 2.0, the file says 2.5"),
        (0, {"met": False}, "met = True, the file says False"),
        (1, {"met": True}, "met = False, the file says True"),
        (4, {"met": True}, "met = None, the file says True"),
    ]:
        wrong = json.loads(json.dumps(content))
        wrong["figures"][number] |= change
        out.write_text(json.dumps(wrong))
        with pytest.raises(CheckError, match=says):
            check(out)
    out.write_text("{}")
    with pytest.raises(CheckError, match="expected a file of figures at"):
        check(out)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"met": 7}, "a file of figures"),
        ({"value": "2"}, "a file of figures"),
        ({"limit": 10**400}, "a file of figures"),
        ({"unit": None}, "a file of figures"),
        ({"statistic": "mode"}, "a file of figures"),
        ({"samples": 3}, "a file of figures"),
        ({"samples": [1, {}]}, "samples with a median"),
        ({"samples": [[1, 1]], "statistic": "slope"}, "samples with a slope"),
    ],
)
def test_a_file_of_damaged_figures_is_refused(change, says, tmp_path):
    out = tmp_path / "f.json"
    write_figures(out, [Figure.of("median", [1.0, 5.0, 2.0], 3.0, "ms", "")])
    content = json.loads(out.read_text())
    content["figures"][0] |= change
    out.write_text(json.dumps(content))
    with pytest.raises(CheckError, match=says):
        check(out)
    if says == "a file of figures":
        with pytest.raises(CheckError, match=says):
            table(out)


def test_figures_are_a_table_for_a_page(tmp_path):
    out = tmp_path / "f.json"
    figures = [
        Figure("rate", 2.0, 4.0, "x", "against a peer", at_least=True),
        Figure("lost", 0, 0, "", "of 9"),
        Figure("no limit", 4.125, None, "ms", "c"),
        Figure("never", math.inf, 1.0, "s", "d"),
        Figure("not made", None, 1.0, "s", "e"),
    ]
    write_figures(out, figures)
    assert table(out).splitlines()[2:] == [
        "| rate | 2 x | at least 4 | **missed** | against a peer |",
        "| lost | 0 | 0 | met | of 9 |",
        "| no limit | 4.12 ms | - | - | c |",
        "| never | - | 1 | **missed** | d |",
        "| not made | - | 1 | - | e |",
    ]


def test_the_repositorys_files_of_figures_follow_from_their_samples():
    files = [path for path in RESULTS.glob("*.json") if holds_figures(path)]
    assert {path.name for path in files} >= {"overhead.json", "runtime.json"}
    assert all(check(path) for path in files)


@pytest.mark.parametrize(
    ("name", "page"),
    [("cloud", "cloud"), ("runtime", "runtime"), ("generation", "language-models")],
)
def test_a_page_shows_the_table_of_the_committed_figures(name, page):
    text = (RESULTS.parents[1] / "docs" / f"{page}.md").read_text()
    assert table(RESULTS / f"{name}.json") in text
