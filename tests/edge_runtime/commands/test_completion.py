"""The printed script completes in a real shell."""

import shutil
import subprocess

import pytest

from edge_runtime.cli.gatekeeper import COMMANDS, main

_ASK = """
COMP_WORDS=(gatekeeper {words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_gatekeeper
echo "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def completed(tmp_path_factory):
    """Return a function: words of a line, the last one unfinished -> what bash offers for it."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    script = tmp_path_factory.mktemp("completion") / "script"
    with pytest.MonkeyPatch.context() as patch, script.open("w", encoding="utf-8") as file:
        patch.setattr("sys.stdout", file)
        assert main(["completion"]) == 0

    def ask(words):
        code = f"source {script}\n{_ASK.format(words=words)}"
        done = subprocess.run(["bash", "-uc", code], capture_output=True, text=True, check=True)
        return done.stdout.split()

    return ask


def test_the_first_word_is_a_command(completed):
    assert completed("''") == list(COMMANDS)
    assert completed("ser") == ["serve"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("run --on-cl", ["--on-cloud-failure"]),
        ("run --on-cloud-failure ''", ["edge", "raise"]),
        ("export --quantize int8", ["int8", "int8-dynamic"]),
        ("run pictures/", []),
    ],
)
def test_flags_and_their_values_are_completed_and_files_are_left_to_the_shell(
    words, expected, completed
):
    assert completed(words) == expected


def test_fish_gets_every_command_with_its_purpose(capsys):
    assert main(["completion", "--shell", "fish"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, target in COMMANDS.items():
        start = "complete -c gatekeeper -n __fish_use_subcommand -f"
        assert f"{start} -a {name} -d '{target.does}'" in lines
    assert all(line.count("'") % 2 == 0 for line in lines)
