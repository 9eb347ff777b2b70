"""Runs one command line: picks the command, reports errors in one line, sets the exit status."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_runtime.cli.arguments import UsageError, parse, suggest
from edge_runtime.cli.command import Command
from edge_runtime.cli.help import overview
from edge_runtime.errors import GatekeeperError, SettingError
from edge_runtime.files import one_line

FAILED = 1
BAD_USAGE = 2
_AFTER_S = 0.05  # by then the finaliser is over


def main(
    program: str,
    commands: Mapping[str, type[Command]],
    *,
    default: type[Command] | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """Run one command line and return its exit status: 0, 1 (failed), 2 (bad usage).

    Args:
        program: What the user typed to get here, e.g. `python -m export`.
        commands: Subcommand name to settings class.
        default: The command of a line that starts without a subcommand.
        argv: The words of the line; the process's own when not given.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        name, command, rest = _select(program, commands, default, words)
        if command is None:
            return 0
        settings = parse(name, command, rest)
    except (UsageError, SettingError) as error:
        print(f"{program}: {one_line(error)}", file=sys.stderr)
        return BAD_USAGE
    return _run(program, settings)


def _run(program: str, settings: Command) -> int:
    usual, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    try:
        settings.run()
        sys.stdout.flush()  # what cannot be written shows here, and not at the interpreter's exit
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        return 0
    except GatekeeperError as error:
        print(f"{program}: {one_line(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        # A Ctrl-C inside somebody's exec() of a text marks the interpreter to die of the signal
        # instead of returning the status, handled or not; the next exec() takes the mark away.
        exec("")  # noqa: S102 - runs nothing
        return 128 + signal.SIGINT
    except OSError as error:
        # A full disk, a missing folder, a permission: the user's to mend, and the system names it.
        place = "standard output" if error.filename is None else error.filename
        reason = f"expected to read or write {place}, got {error.strerror or error}"
        print(f"{program}: {one_line(reason)}: fix the cause and rerun", file=sys.stderr)
        return FAILED
    finally:
        sys.unraisablehook = usual
        _abandon_output()
    return 0


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Repeat a Ctrl-C that struck in a finaliser, where Python drops whatever is raised."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(_AFTER_S, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


def _abandon_output() -> None:
    """Drop what standard output does not take, or Python would complain of it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _select(
    program: str,
    commands: Mapping[str, type[Command]],
    default: type[Command] | None,
    words: list[str],
) -> tuple[str, type[Command] | None, list[str]]:
    if words and words[0] in commands:
        return f"{program} {words[0]}", commands[words[0]], words[1:]
    asks_help = bool(words) and words[0] in {"-h", "--help", "help"}
    if default is not None and words and words[0].startswith("--") and not asks_help:
        return program, default, words
    if asks_help:
        print(overview(program, commands, default))
        return program, None, []
    raise UsageError(_no_command(commands, default, words))


def _no_command(
    commands: Mapping[str, type[Command]], default: type[Command] | None, words: list[str]
) -> str:
    names = ", ".join(commands)
    if not words:
        flags = " or a flag" if default else ""
        return f"expected a command ({names}){flags}, got nothing: see --help"
    return (
        f"expected a command ({names}), got {words[0]!r}{suggest(words[0], commands)}: see --help"
    )
