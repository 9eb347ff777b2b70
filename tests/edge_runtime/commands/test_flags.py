"""The flags of the link and of foreign engines become arguments, or are refused."""

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
    flags = {"cloud_output": "scores", "cloud_reduce": "argmax", "cloud_labels": labels}
    return DoctorSettings(bundle=labels.parent, cloud="localhost:1", **flags).cloud_options()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_class_names_are_the_lines_of_the_file(labels, end):
    # A comma, a space at an end, another line separator of Unicode and no name at all are names.
    names = ("", "tabby, tabby cat", " dög", "a\u2028b", "z")
    labels.write_bytes(((end or "\n").join(names) + end).encode())
    assert options(labels)["cloud_labels"] == names


def test_without_flags_the_bundle_decides():
    assert DoctorSettings().cloud_options() == {
        "forward": "original",
        "security": None,
        "allow_plaintext": False,
        "use_proxy": False,
    }


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_of_class_names_that_cannot_be_read_is_named(labels, content):
    if content is not None:
        labels.write_bytes(content)
    with pytest.raises(SettingError, match=f"class names at {labels}, one per line"):
        options(labels)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--cloud-input=x"], "--cloud-input needs --cloud"),
        (["--cloud-output=x"], "--cloud-output needs --cloud"),
        (["--cloud=h:1", "--cloud-reduce=argmax"], "--cloud-reduce needs --cloud-output"),
        (["--cloud=h:1", "--cloud-labels=x"], "--cloud-labels needs --cloud-output"),
        (["--cloud=h:1", "--cloud-output=x", "--cloud-reduce=mean"], "argmax"),
        (["--forward=pixels"], "model_input"),
        (["--cloud=h:1", "--token-file=t"], "--token-file needs --tls"),
        (["--cloud=h:1", "--token-env=T"], "--token-env needs --tls"),
        (["--cloud=h:1", "--ca=c"], "--ca needs --tls"),
        (["--cloud=h:1", "--server-name=c"], "--server-name needs --tls"),
        (["--cloud=h:1", "--tls", "--allow-plaintext"], "got both"),
        (["--cloud=h:1", "--tls", "--key=k"], "key needs certificate"),
        (["--tls"], "--tls needs --cloud"),
        (["--allow-plaintext"], "--allow-plaintext needs --cloud"),
        (["--use-proxy"], "--use-proxy needs --cloud"),
    ],
)
def test_contradictory_flags_are_bad_usage(command, words, why, capsys):
    inputs = ["x.png"] if command == "run" else []
    argv = [command, "--bundle=no-such-bundle", *words, *inputs]
    assert main("python -m edge_runtime", COMMANDS, argv=argv) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1
