"""A command runs only once its whole line has been parsed."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from tools.processes import start

from edge_runtime.cli import Command, field, main
from edge_runtime.cli.arguments import _elements
from edge_runtime.cli.gatekeeper import main as gatekeeper
from edge_runtime.errors import GatekeeperError

RAN = []


@dataclass(frozen=True, kw_only=True)
class Paint(Command):
    """Paint a wall.

    Example: paint wall --coats 2
    """

    colour: str = field("name of the colour")
    walls: tuple[Path, ...] = field("walls", default=(), positional=True)
    coats: int = field("how many", default=1, least=1)
    litres: float | None = field("at most", default=None)
    seeds: tuple[int, ...] = field("seeds", default=(0,))
    marks: tuple[str, ...] = field("marks", default=(), repeated=True)
    finish: Literal["matt", "gloss"] = field("surface", default="matt")
    dry: bool = field("wait", default=False)

    def run(self):
        RAN.append(self)
        if self.colour == "sold-out":
            raise GatekeeperError("expected a colour in stock,\n got sold-out")
        if self.colour == "unmixed":
            raise ModuleNotFoundError("No module named 'mixer.blue'", name="mixer.blue")


@pytest.fixture(autouse=True)
def nothing_ran():
    RAN.clear()


def run(*words):
    return main("house", {"paint": Paint}, argv=words)


def test_text_is_converted_to_the_fields_types():
    line = "paint --colour=2024 north south --coats 2 --litres 1e1 --seeds 1,2 --finish gloss --dry"
    assert run(*line.split()) == 0
    assert [
        Paint(
            colour="2024",
            walls=(Path("north"), Path("south")),
            coats=2,
            litres=10.0,
            seeds=(1, 2),
            finish="gloss",
            dry=True,
        )
    ] == RAN


@pytest.mark.parametrize(
    ("words", "marks"),
    [
        (["--marks", ","], (",",)),
        (["--marks=,"], (",",)),
        (
            ["--marks=", "--marks", "a,b", "--marks=--dry", "--marks=x=y"],
            ("", "a,b", "--dry", "x=y"),
        ),
        (["--marks", "\\,", "north", "--marks", "-", "--marks=True"], ("\\,", "-", "True")),
    ],
)
def test_a_repeated_flag_takes_each_value_whole(words, marks):
    assert run("paint", "--colour", "red", *words) == 0
    assert RAN[0].marks == marks


@pytest.mark.parametrize(
    ("line", "walls"),
    [
        ("a,b", ("a", "b")),
        ("a\\,b,c", ("a,b", "c")),
        ("\\,", (",",)),
        ("a\\b", ("a\\b",)),
        ("", ()),
    ],
)
def test_a_comma_inside_an_element_of_a_list_is_escaped(line, walls):
    assert tuple(_elements(line, "--walls")) == walls


def test_a_switch_does_not_swallow_the_word_after_it():
    assert run("paint", "--colour", "red", "--dry", "north") == 0
    assert RAN[0].dry
    assert RAN[0].walls == (Path("north"),)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("paint --color red", ["--color", "did you mean '--colour'"]),
        ("paint --colour red --coats two", ["--coats expects a whole number", "'two'"]),
        ("paint --colour red --coats 0", ["expected --coats at least 1, got 0"]),
        ("paint --colour", ["--colour expects a value"]),
        ("paint --colour red --finish shiny", ["matt, gloss", "'shiny'"]),
        ("paint --colour red --seeds 1,,2", ["--seeds expects elements", "'1,,2'", r"write \,"]),
        ("paint --colour red --seeds ,", ["--seeds expects elements between commas, got ','"]),
        ("paint --colour red --marks", ["--marks expects a value, got none: write --marks=VALUE"]),
        ("paint --colour red --marks --dry", ["--marks expects a value"]),
        ("paint north", ["--colour required"]),
        ("pain --colour red", ["did you mean 'paint'"]),
        ("", ["expected a command (paint)"]),
    ],
)
def test_an_invalid_line_runs_nothing(line, words, capsys):
    assert run(*line.split()) == 2
    message = capsys.readouterr().err
    assert RAN == []
    assert message.count("\n") == 1
    assert all(word in message for word in words)


def test_a_users_mistake_is_one_line_and_status_1(capsys):
    assert run("paint", "--colour", "sold-out") == 1
    assert capsys.readouterr().err == "house: expected a colour in stock, got sold-out\n"


def test_a_missing_library_is_one_line_that_names_the_extra(capsys, monkeypatch):
    monkeypatch.setattr(Paint, "__module__", "cloud_stub.paint")
    assert run("paint", "--colour", "unmixed") == 1
    assert capsys.readouterr().err == (
        "house: cloud_stub needs mixer, which is not installed: "
        "pip install 'gatekeeper-edge[cloud]'\n"
    )


def test_a_missing_module_elsewhere_keeps_its_traceback():
    with pytest.raises(ModuleNotFoundError):
        run("paint", "--colour", "unmixed")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["run", "--help"]])
def test_a_reader_of_help_may_leave_early(words):
    process = start("edge_runtime", *words)
    process.stdout.close()
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (141, "")


def test_help_shows_the_example_and_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        run("paint", "--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "Example: paint wall --coats 2" in text
    assert all(flag in text for flag in ("--colour", "WALLS", "--seeds", "default: matt"))


def test_an_interrupt_ends_a_module_with_status_130(tmp_path):
    # Inside an exec() of a text, as imports of large libraries do it.
    (tmp_path / "stopped.py").write_text(
        "import sys\n"
        "from edge_runtime.cli import main\n"
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Stop:\n"
        "    def run(self):\n"
        "        exec('raise KeyboardInterrupt')\n"
        "sys.exit(main('house', {'stop': Stop}))\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    done = subprocess.run(
        [sys.executable, "-m", "stopped", "stop"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (done.returncode, done.stderr) == (130, "house: interrupted\n")


SWALLOWED = """
import signal, sys, time
from dataclasses import dataclass
from edge_runtime.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored

class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

@dataclass(frozen=True)
class Command:
    \"\"\"Wait.\"\"\"
    def run(self):
        Dying()  # Python drops what its finaliser raises
        for _ in range(1000):
            time.sleep(0.01)

sys.exit(main("program", {"wait": Command}, argv=["wait"]))
"""


def test_an_interrupt_that_a_finaliser_swallowed_comes_again():
    found = subprocess.run(
        [sys.executable, "-c", SWALLOWED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (found.returncode, found.stderr) == (130, "program: interrupted\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("entry", ["package", "gatekeeper"])
def test_a_terminal_of_any_encoding_shows_escapes_of_what_it_lacks(encoding, entry, monkeypatch):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    if entry == "package":
        assert run("paint", "--colour", "天", "--coats", "0\udcff") == 2
    else:
        assert gatekeeper(["\udcff天"]) == 2
    print("天 and 🙂")
    out.flush()
    err.flush()
    assert out.buffer.getvalue() == b"\\u5929 and \\U0001f642\n"
    assert b"udcff" in err.buffer.getvalue()


@contextlib.contextmanager
def unread():
    """Make standard output a pipe whose reader has left; it fails once it is flushed."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
        yield


PAGES = [
    ("edge_runtime", "generate --help"),
    ("edge_runtime", "--help"),
    ("export", "inspect --help"),
    ("benchmarks", "--help"),
]


@pytest.mark.parametrize(("package", "line"), PAGES, ids=str)
def test_a_page_that_nobody_reads_ends_in_silence(package, line, capfd):
    commands = importlib.import_module(f"{package}.__main__").COMMANDS
    with unread():
        assert main(f"python -m {package}", commands, argv=line.split()) == 141
    assert capfd.readouterr().err == ""


def test_the_overview_that_nobody_reads_ends_in_silence(capfd):
    with unread():
        assert gatekeeper(["--help"]) == 141
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("lines", [1, 10_000])
def test_a_command_whose_output_nobody_reads_ends_like_others(lines, capfd, monkeypatch):
    def talk(_):
        for number in range(lines):
            print(number, "coats of paint")

    monkeypatch.setattr(Paint, "run", talk)
    with unread():
        assert run("paint", "--colour", "red") == 141
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_run_that_head_cuts_off_ends_without_a_word(bundle, tmp_path):
    for number in range(300):  # more lines than a pipe and the buffers hold
        (tmp_path / f"{number}{'x' * 200}.npy").write_bytes(b"no array")
    words = ["run", "--bundle", bundle, "--json", tmp_path]
    with start("edge_runtime", *words) as process:
        assert "error" in process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
        assert process.wait(60) == 141
    assert error == ""
