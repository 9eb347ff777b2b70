"""A command runs once its whole line was understood, and not before."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from edge_runtime.cli import field, main
from edge_runtime.errors import GatekeeperError, SettingError

RAN = []


@dataclass(frozen=True, kw_only=True)
class Paint:
    """Paint a wall.

    Example: paint wall --coats 2
    """

    colour: str = field("name of the colour")
    walls: tuple[Path, ...] = field("walls", default=(), positional=True)
    coats: int = field("how many", default=1)
    litres: float | None = field("at most", default=None)
    seeds: tuple[int, ...] = field("seeds", default=(0,))
    finish: Literal["matt", "gloss"] = field("surface", default="matt")
    dry: bool = field("wait", default=False)

    def __post_init__(self):
        if self.coats < 1:
            raise SettingError(f"expected --coats of at least 1, got {self.coats}")

    def run(self):
        RAN.append(self)
        if self.colour == "sold-out":
            raise GatekeeperError("expected a colour in stock,\n got sold-out")


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


def test_a_switch_does_not_swallow_the_word_after_it():
    assert run("paint", "--colour", "red", "--dry", "north") == 0
    assert RAN[0].dry
    assert RAN[0].walls == (Path("north"),)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("paint --color red", ["--color", "did you mean '--colour'"]),
        ("paint --colour red --coats two", ["--coats expects a whole number", "'two'"]),
        ("paint --colour red --coats 0", ["--coats of at least 1"]),
        ("paint --colour", ["--colour expects a value"]),
        ("paint --colour red --finish shiny", ["matt, gloss", "'shiny'"]),
        ("paint north", ["--colour required"]),
        ("pain --colour red", ["did you mean 'paint'"]),
        ("", ["expected a command (paint)"]),
    ],
)
def test_a_line_that_is_not_understood_runs_nothing(line, words, capsys):
    assert run(*line.split()) == 2
    message = capsys.readouterr().err
    assert RAN == []
    assert message.count("\n") == 1
    assert all(word in message for word in words)


def test_a_users_mistake_is_one_line_and_status_1(capsys):
    assert run("paint", "--colour", "sold-out") == 1
    assert capsys.readouterr().err == "house: expected a colour in stock, got sold-out\n"


def test_help_shows_the_example_and_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        run("paint", "--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "Example: paint wall --coats 2" in text
    assert all(flag in text for flag in ("--colour", "WALLS", "--seeds", "(default: matt)"))


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
