"""Runs a command line: selects the command, prints errors on one line, sets the exit status."""

from __future__ import annotations

import _thread
import contextlib
import importlib.util
import io
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import edge_runtime
from edge_runtime.cli.arguments import UsageError, parse, suggest
from edge_runtime.cli.command import Command
from edge_runtime.cli.help import drop_output, overview, show
from edge_runtime.environment import versions
from edge_runtime.errors import DependencyError, GatekeeperError, SettingError
from edge_runtime.files import one_line

FAILED = 1
BAD_USAGE = 2
CLOSED_PIPE = 141
"""128 + SIGPIPE: how other programs end whose reader, `head` for example, has seen enough."""
EXTRAS = {
    "edge_runtime": "cpu",
    "train": "train",
    "export": "export",
    "cloud_stub": "cloud",
    "benchmarks": "bench",
}
"""The extra of gatekeeper-edge that installs the libraries of a package."""
_LIGHTEST = {
    "PIL": "image",
    "tokenizers": "text",
    "onnxruntime": "cpu",
    "grpc_health": "serve",
    "grpc_reflection": "serve",
    "prometheus_client": "serve",
}
"""The least extra that has a library, which a package's own may bring with much else."""
_NEEDS = {
    "train": ("train",),
    "export": ("export", "train"),
    "cloud_stub": ("cloud_stub", "train"),
    "benchmarks": ("benchmarks", "train", "export", "cloud_stub"),
}
"""The packages that each package imports, by whose names others' files may go too."""
_ROOT = Path(edge_runtime.__file__).parents[1]
_FEW = 20  # names that a line may hold
_RETRY_S = 0.05  # the finaliser has ended by then


def main(
    program: str,
    commands: Mapping[str, type[Command]],
    *,
    default: type[Command] | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """Run one command line and return its exit status: 0, 1 (failed), 2 (bad usage), 130, 141.

    130 is that of an interrupted command, 141 that of one whose output nobody reads any more.

    Args:
        program: Start of the line as the user typed it, e.g. `python -m export`.
        commands: Settings class of each command, by name.
        default: The command of a line that starts with a flag.
        argv: The words of the line; those of the process by default.
    """
    open_closed_streams()
    accept_any_text()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words == ["--version"]:
            show(versions())
            return 0
        name, command, rest = _select(program, commands, default, words)
        if command is not None:
            require_own(program.rpartition(" ")[2])
    except (UsageError, SettingError) as error:
        return fail(program, error, BAD_USAGE)
    except BrokenPipeError:  # of a page of help
        drop_output()
        return CLOSED_PIPE
    return 0 if command is None else run_command(program, name, command, rest)


def run_command(program: str, name: str, command: type[Command], words: list[str]) -> int:
    """Parse the words of one command, run it, and return the status as `main` does.

    Args:
        program: Start of the line, for errors.
        name: The line up to the command, for its page of help.
        command: The command's settings class.
        words: The words after the command.
    """
    try:
        settings = parse(name, command, words)
    except (UsageError, SettingError) as error:
        return fail(program, error, BAD_USAGE)
    except BrokenPipeError:
        drop_output()
        return CLOSED_PIPE
    return _run(program, settings)


def open_closed_streams() -> None:
    """Open the null device in place of standard streams that the caller closed.

    Otherwise the next file or connection takes their number: it gets what is printed, and event
    loops abort when they close it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            os.set_inheritable(number, True)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def accept_any_text() -> None:
    """Let output that is not in UTF-8 show an escape for a character that it lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # closed at the start it is None
            stream.reconfigure(errors="backslashreplace")


def fail(program: str, error: object, status: int = FAILED) -> int:
    """Print an error on one line and return the exit status."""
    with contextlib.suppress(BrokenPipeError):
        print(f"{program}: {one_line(error)}", file=sys.stderr)
    return status


def prefer_own(package: str) -> None:
    """Find the modules that a package needs beside this one, whatever else goes by their names.

    That is for a process of this toolkit alone: PYTHONPATH may name a folder of somebody's.
    """
    if next(_foreign(package), None) is not None:
        sys.path.insert(0, str(_ROOT))


def require_own(package: str) -> None:
    """Raise a `SettingError` where a foreign module hides one that a package needs.

    The packages' names are others' words too, and Python looks into the working folder first. The
    foreign module is not imported.
    """
    for name, place in _foreign(package):
        raise SettingError(
            f"expected this toolkit's package {name!r}, got {place}, which hides it: use the "
            "command `gatekeeper`, or run from another folder"
        )


def _foreign(package: str) -> Iterator[tuple[str, Path]]:
    for name in _NEEDS.get(package, ()):
        found = importlib.util.find_spec(name)
        place = None if found is None or found.origin is None else Path(found.origin)
        if place is not None and _ROOT not in place.parents[:2]:
            yield name, place


def missing_library(error: ModuleNotFoundError, package: str) -> DependencyError:
    """Return the error for a library that a package needs; raise again for a module of ours."""
    library = (error.name or "").partition(".")[0]
    if not library or library in EXTRAS or package not in EXTRAS:
        raise error
    return DependencyError(library, package, _LIGHTEST.get(library, EXTRAS[package]))


def _run(program: str, settings: Command) -> int:
    usual, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    try:
        settings.run()
        sys.stdout.flush()  # a write error must show here, not at the interpreter's exit
    except BrokenPipeError:
        return CLOSED_PIPE
    except GatekeeperError as error:
        return fail(program, error)
    except ModuleNotFoundError as error:
        return fail(program, missing_library(error, type(settings).__module__.partition(".")[0]))
    except KeyboardInterrupt:
        # A Ctrl-C inside a library's exec() marks the interpreter to die of the signal instead of
        # returning the status, even when handled; the next exec() clears the mark.
        exec("")  # noqa: S102 - runs nothing
        return fail(program, "interrupted", 128 + signal.SIGINT)
    except OSError as error:
        # A full disk, a missing folder, a permission: the user can fix it, the system names it.
        place = "standard output" if error.filename is None else error.filename
        reason = f"expected to read or write {place}, got {error.strerror or error}"
        return fail(program, f"{reason}: fix the cause and rerun")
    finally:
        sys.unraisablehook = usual
        drop_output()
    return 0


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Repeat a Ctrl-C that struck in a finaliser, where Python drops every exception."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(_RETRY_S, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


def _select(
    program: str,
    commands: Mapping[str, type[Command]],
    default: type[Command] | None,
    words: list[str],
) -> tuple[str, type[Command] | None, list[str]]:
    if words and words[0] in commands:
        return f"{program} {words[0]}", commands[words[0]], words[1:]
    wants_help = bool(words) and words[0] in {"-h", "--help", "help"}
    if default is not None and words and words[0].startswith("--") and not wants_help:
        return program, default, words
    if wants_help:
        show(overview(program, commands, default))
        return program, None, []
    raise unknown_word("a command", commands, words, or_flag=default is not None)


def unknown_word(
    noun: str, known: Collection[str], words: Sequence[str], *, or_flag: bool = False
) -> UsageError:
    """Return the error for a line whose first word is missing or unknown."""
    names = f" ({', '.join(known)})" if len(known) <= _FEW else ""
    if words:
        hint = suggest(words[0], known)
        return UsageError(f"expected {noun}{names}, got {words[0]!r}{hint}: see --help")
    flag = " or a flag" if or_flag else ""
    return UsageError(f"expected {noun}{names}{flag}, got nothing: see --help")
