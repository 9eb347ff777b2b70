"""The console script reaches every command of every package, as `python -m` does."""

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.cli import main as run_line
from edge_runtime.cli.gatekeeper import COMMANDS, PACKAGES, main
from edge_runtime.reading import read_toml

ROOT = Path(__file__).parents[3]
MODULES = [name.replace("-", "_") for name in PACKAGES]


@pytest.fixture(autouse=True)
def argv(monkeypatch):
    """Keep the words of this process: the script replaces them."""
    monkeypatch.setattr(sys, "argv", ["pytest"])


def error_of(line, capsys):
    """Return (status, the one line on standard error)."""
    status = main(line.split())
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    return status, error


def test_the_script_is_installed_under_its_name():
    scripts = read_toml(ROOT / "pyproject.toml")["project"]
    assert scripts["scripts"] == {"gatekeeper": "edge_runtime.cli.gatekeeper:main"}


@pytest.mark.parametrize("line", ["--help", "-h", "help"])
def test_help_lists_every_command_with_one_line(line, capsys):
    assert main([line]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: gatekeeper COMMAND [FLAGS]"
    for name, target in COMMANDS.items():
        assert any(row.split(maxsplit=1) == [name, target.does] for row in lines)


def test_every_command_of_a_package_has_a_name_of_its_own():
    """But for the measurements behind the documentation, which stay with their package."""
    named = {(target.package, target.command) for target in COMMANDS.values()}
    for module in MODULES:
        known = {(module, name) for name in importlib.import_module(f"{module}.__main__").COMMANDS}
        ours = {target for target in named if target[0] == module}
        assert ours <= known
        assert module == "benchmarks" or ours == known


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - PACKAGES.keys()))
def test_a_command_has_the_help_of_its_module(name, capsys):
    target = COMMANDS[name]
    with pytest.raises(SystemExit):
        main([name, "--help"])
    first, *rest = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"usage: gatekeeper {name}( BUNDLE)? \[FLAGS\]", first)
    assert f"Example: gatekeeper {name} " in "\n".join(rest)
    with pytest.raises(SystemExit):
        main([target.package, target.command, "--help"])
    assert capsys.readouterr().out.splitlines()[-1] == rest[-1]


@pytest.mark.parametrize("module", ["gatekeeper", *MODULES])
def test_version_names_this_toolkit_and_its_libraries(module, capsys):
    if module == "gatekeeper":
        assert main(["--version"]) == 0
    else:
        assert run_line(f"python -m {module}", {}, argv=["--version"]) == 0
    shown = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert shown["gatekeeper-edge"] == importlib.metadata.version("gatekeeper-edge")
    assert shown["numpy"] == importlib.metadata.version("numpy")


@pytest.mark.parametrize("name", MODULES)
def test_a_package_knows_its_version(name):
    expected = importlib.metadata.version("gatekeeper-edge")
    assert importlib.import_module(name).__version__ == expected


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("separator", ["-", "_"])
def test_a_package_shows_the_commands_and_default_of_its_module(module, separator, capsys):
    package = importlib.import_module(f"{module}.__main__")
    assert main([module.replace("_", separator), "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in package.COMMANDS)
    program = f"gatekeeper {module.replace('_', '-')}"
    assert run_line(program, package.COMMANDS, default=package.DEFAULT, argv=["--help"]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "got nothing: see --help"),
        ("serv --port 1", "got 'serv' (did you mean 'serve'?): see --help"),
        ("run --bundel b", "gatekeeper run: unknown flag --bundel (did you mean '--bundle'?)"),
        ("run", "gatekeeper run: --bundle required: see gatekeeper run --help"),
        ("edge-runtime rum", "gatekeeper edge-runtime: expected a command (run, "),
        ("edge_runtime run --bundel b", "(did you mean '--bundle'?), nothing was run"),
        ("export --foo", "gatekeeper export: unknown flag --foo"),
    ],
)
def test_a_misspelt_line_is_bad_usage(line, says, capsys):
    status, error = error_of(line, capsys)
    assert status == 2
    assert error.startswith("gatekeeper")
    assert says in error


def test_a_failed_command_has_the_line_and_status_of_its_module(tmp_path, capsys):
    status, error = error_of(f"export inspect --bundle {tmp_path}", capsys)
    assert status == 1
    assert error.startswith("gatekeeper export: expected a bundle folder")


@pytest.mark.parametrize("line", ["train fit --help", "fit --help"])
def test_results_record_the_command_of_the_module(line):
    from edge_runtime import environment

    with pytest.raises(SystemExit):
        main(line.split())
    assert environment.describe("train")["command"] == "python -m train fit --help"


@pytest.mark.parametrize(
    ("name", "extra"), [("train", "train"), ("cloud-stub", "cloud"), ("benchmarks", "bench")]
)
def test_a_missing_library_is_one_line_that_names_the_extra(name, extra, capsys, monkeypatch):
    def fail(module):
        raise ModuleNotFoundError(f"No module named 'numpy.x' in {module}", name="numpy.x")

    monkeypatch.setattr(importlib, "import_module", fail)
    status, error = error_of(f"{name} anything", capsys)
    assert status == 1
    assert "needs numpy, which is not installed" in error
    assert f"pip install 'gatekeeper-edge[{extra}]'" in error


def test_a_missing_module_of_this_toolkit_keeps_its_traceback(monkeypatch):
    def fail(module):
        raise ModuleNotFoundError(f"No module named {module!r}", name="train.nothing")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError):
        main(["train", "fit"])


@pytest.fixture
def foreign(tmp_path):
    """Return a folder with somebody's own `train.py`, which leaves a file when it runs."""
    (tmp_path / "train.py").write_text("open('it-ran', 'w').close()", encoding="utf-8")
    return tmp_path


def run_in(folder, *line):
    done = subprocess.run(
        [sys.executable, *line], capture_output=True, text=True, check=False, cwd=folder
    )
    assert not (folder / "it-ran").exists()
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_module_says_which_foreign_one_hides_what_it_needs(foreign):
    status, out, error = run_in(foreign, "-m", "cloud_stub", "--checkpoint", "x")
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert f"expected this toolkit's package 'train', got {foreign / 'train.py'}" in error


@pytest.mark.slow
@pytest.mark.parametrize("path", ["", "."])
def test_the_script_does_not_look_into_the_working_folder(foreign, path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [path, str(ROOT)])))
    script = Path(sys.executable).with_name("gatekeeper")
    status, _, error = run_in(foreign, script, "serve", "--checkpoint", "x")
    assert (status, error.count("\n")) == (1, 1)
    said = "expected a checkpoint", "serving a checkpoint needs torch"
    assert error.startswith(tuple(f"gatekeeper serve: {text}" for text in said))
