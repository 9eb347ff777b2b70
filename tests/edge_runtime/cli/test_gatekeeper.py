"""The console script reaches every command of every package, as `python -m` does."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edge_runtime.cli import main as run_line
from edge_runtime.cli.gatekeeper import PACKAGES, main

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
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert scripts["scripts"] == {"gatekeeper": "edge_runtime.cli.gatekeeper:main"}


@pytest.mark.parametrize("line", ["--help", "-h", "help"])
def test_help_lists_every_package_with_one_line(line, capsys):
    assert main([line]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: gatekeeper PACKAGE COMMAND [FLAGS]"
    for name, text in PACKAGES.items():
        assert any(row.split(maxsplit=1) == [name, text] for row in lines)


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
        (
            "",
            "expected a package (train, export, edge-runtime, cloud-stub, benchmarks), got nothing",
        ),
        ("trian fit", "got 'trian' (did you mean 'train'?): see --help"),
        ("edge-runtime rum", "gatekeeper edge-runtime: expected a command (run, generate, doctor)"),
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


def test_results_record_the_command_of_the_module():
    from edge_runtime import environment

    main(["train", "--help"])
    assert environment.describe("train")["command"] == "python -m train --help"


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


@pytest.mark.slow
def test_the_script_as_a_process():
    code = "import sys; from edge_runtime.cli.gatekeeper import main; sys.exit(main())"
    line = [sys.executable, "-c", code, "edge-runtime", "run"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gatekeeper edge-runtime: --bundle required")
