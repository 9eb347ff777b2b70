"""A long run shows its stages, and each warning once."""

import sys
import warnings

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.steps import Stages, empty_folder


def test_stages_are_a_line_each_where_nobody_watches(capfd):
    with Stages(2) as stages:
        with stages.stage("train M_L"):
            print("validation accuracy 0.99")
        with stages.stage("train M_S"):
            pass
    out, error = capfd.readouterr()
    assert out == ""
    lines = error.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("1/2 train M_L: 0.")
    assert lines[1].startswith("2/2 train M_S: 0.")


def test_a_warning_is_shown_once_on_one_line_whatever_its_numbers(capfd):
    with Stages(2) as stages:
        for seed in (0, 1):
            with stages.stage(f"seed {seed}"):
                print(f"warning: M_S is wrong on {seed} of 90 inputs", file=sys.stderr)
                text = warnings.formatwarning("old  name\nof it", UserWarning, __file__, 1)
                sys.stderr.write(text)
                print("something else", file=sys.stderr)
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("warning")] == [
        "warning: M_S is wrong on 0 of 90 inputs",
        "warning: old name",
    ]
    assert lines.count("something else") == 2
    assert len(lines) == 6


def test_an_error_in_a_stage_leaves_no_line_and_the_streams_as_they_were(capfd):
    before = sys.stdout, sys.stderr
    with pytest.raises(BenchmarkError), Stages(1) as stages, stages.stage("train"):
        raise BenchmarkError("no")
    assert (sys.stdout, sys.stderr) == before
    assert capfd.readouterr() == ("", "")


def test_a_folder_with_content_is_replaced_only_where_allowed(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(BenchmarkError, match="--overwrite"):
        empty_folder(tmp_path, overwrite=False)
    assert (tmp_path / "thesis.tex").is_file()
    empty_folder(tmp_path, overwrite=True)
    assert list(tmp_path.iterdir()) == []
