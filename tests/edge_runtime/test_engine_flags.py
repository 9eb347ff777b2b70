"""The flags that map a foreign engine: what they become, and what they refuse."""

import pytest

from edge_runtime.cli import main
from edge_runtime.commands.doctor import DoctorSettings
from edge_runtime.commands.run import RunSettings
from edge_runtime.errors import SettingError

COMMANDS = {"run": RunSettings, "doctor": DoctorSettings}


@pytest.fixture
def labels(tmp_path):
    return tmp_path / "labels.txt"


def options(labels):
    given = {"cloud_output": "scores", "cloud_reduce": "argmax", "cloud_labels": labels}
    return DoctorSettings(bundle=labels.parent, cloud="localhost:1", **given).engine_options()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_class_names_are_the_lines_of_the_file(labels, end):
    # A comma, a space at an end, another line separator of Unicode and no name at all are names.
    names = ("", "tabby, tabby cat", " dög", "a\u2028b", "z")
    labels.write_bytes(((end or "\n").join(names) + end).encode())
    assert options(labels)["cloud_labels"] == names


def test_what_is_not_given_is_left_to_the_bundle():
    assert DoctorSettings().engine_options() == {"forward": "original"}


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_of_class_names_that_cannot_be_read_is_named(labels, content):
    if content is not None:
        labels.write_bytes(content)
    with pytest.raises(SettingError, match=f"class names at {labels}, one a line"):
        options(labels)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--cloud-input=x"], "expected --cloud beside --cloud-input"),
        (["--cloud-output=x"], "expected --cloud beside --cloud-output"),
        (["--cloud=h:1", "--cloud-reduce=argmax"], "expected --cloud-output beside --cloud-reduce"),
        (["--cloud=h:1", "--cloud-labels=x"], "expected --cloud-output beside --cloud-labels"),
        (["--cloud=h:1", "--cloud-output=x", "--cloud-reduce=mean"], "argmax"),
        (["--forward=pixels"], "model_input"),
    ],
)
def test_flags_that_make_no_sense_are_bad_usage(command, words, why, capsys):
    inputs = ["x.png"] if command == "run" else []
    argv = [command, "--bundle=no-such-bundle", *words, *inputs]
    assert main("python -m edge_runtime", COMMANDS, argv=argv) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1
