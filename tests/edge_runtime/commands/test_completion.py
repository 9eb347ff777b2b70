"""The printed script completes in a real shell."""

import shutil
import subprocess

import pytest

from edge_runtime.cli.gatekeeper import COMMANDS, PACKAGES, main

_ASK = """
COMP_WORDS=(gatekeeper {words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_gatekeeper gatekeeper "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
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
        assert main(["completion", "bash"]) == 0

    def ask(words):
        code = f"source {script}\n{_ASK.format(words=words)}"
        done = subprocess.run(["bash", "-uc", code], capture_output=True, text=True, check=True)
        return done.stdout.split()

    return ask


def test_the_first_word_is_a_command(completed):
    assert completed("''") == [*dict.fromkeys([*COMMANDS, *PACKAGES]), "--help", "--version"]
    assert completed("ser") == ["serve"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("run --on-cl", ["--on-cloud-failure"]),
        ("run --on-cloud-failure ''", ["edge", "raise"]),
        ("export --quantize int8", ["int8", "int8-dynamic"]),
        ("run --on-cloud-failure = e", ["edge"]),
        ("run --on-cloud-failure=e", ["--on-cloud-failure=edge"]),
        ("run --json --on-cl", ["--on-cloud-failure"]),
        ("run pictures/", []),
        ("run ''", []),
        ("fit --data ''", []),
        ("completion ''", ["--help", "bash", "zsh", "fish"]),
        ("train fit --mod", ["--model"]),
        ("export ins", ["inspect"]),
        ("edge-runtime do", ["doctor"]),
        ("nothing ''", []),
    ],
)
def test_flags_and_their_values_are_completed_and_files_are_left_to_the_shell(
    words, expected, completed
):
    assert completed(words) == expected


def test_a_command_without_words_of_its_own_offers_its_flags(completed):
    assert completed("fit --overwrite ''") == completed("fit ''")
    assert {"--data", "--help"} < set(completed("fit ''"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_accepts_its_script(shell, tmp_path, capsys):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    done = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_fish_completes_commands_flags_and_their_values(tmp_path, capsys):
    if shutil.which("fish") is None:
        pytest.skip("needs fish")
    assert main(["completion", "fish"]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    lines = ["ser", "run --on-cloud-failure ", "train fit --mod", "export ins"]
    asked = "; ".join(f"complete -C 'gatekeeper {line}'" for line in lines)
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {script}; {asked}"],
        capture_output=True,
        text=True,
        check=True,
    )
    offered = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert offered == ["serve", "edge", "raise", "--model", "inspect"]


@pytest.mark.parametrize("words", [["tcsh"], ["bash", "zsh"]])
def test_another_shell_or_several_are_refused(words, capsys):
    assert main(["completion", *words]) == 2
    assert capsys.readouterr().err.startswith("gatekeeper completion: ")


def test_fish_gets_every_command_with_its_purpose(capsys):
    assert main(["completion", "fish"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, target in COMMANDS.items():
        start = "complete -c gatekeeper -n __fish_use_subcommand -f"
        assert f"{start} -a {name} -d '{target.does}'" in lines
