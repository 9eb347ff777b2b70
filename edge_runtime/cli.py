"""The command-line shim that every package shares.

A command is a frozen dataclass (its settings, validated on creation) with a `run` method.
python-fire parses the line, but binds into a recorder first: it calls what it understood *before*
it looks at the rest, so a misspelt flag would otherwise run the command with that flag's default.
The settings are built, and the command runs, only when the whole line was understood.

Field types that text converts to: `str`, `int`, `float`, `bool`, `Path`, an optional of these, a
`Literal`, and tuples of them (`--seeds 0,1,2`). A tuple field with `metadata={"positional": True}`
takes the words that are not flags.
"""

from __future__ import annotations

import _thread
import contextlib
import dataclasses
import difflib
import inspect
import io
import os
import signal
import sys
import threading
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import fire
from fire import core as fire_core
from fire import decorators

from edge_runtime.errors import GatekeeperError, SettingError

FAILED = 1
BAD_USAGE = 2
_AFTER_S = 0.05  # by then the finaliser is over
_SIGNED = {"-inf", "-infinity", "-nan"}


class Command(Protocol):
    """Settings of one command, and what it does with them."""

    def run(self) -> None:
        """Do the work; raise a `GatekeeperError` for what the user can mend."""


class UsageError(GatekeeperError):
    """The command line could not be understood; nothing was run."""


def field(help_text: str, *, default: Any = dataclasses.MISSING, positional: bool = False) -> Any:
    """Declare a setting with its help text, for use in a command's dataclass."""
    metadata = {"help": help_text, "positional": positional}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


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
        settings = _parse(name, command, rest)
    except (UsageError, SettingError) as error:
        print(f"{program}: {_one_line(error)}", file=sys.stderr)
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
        print(f"{program}: {_one_line(error)}", file=sys.stderr)
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
        print(f"{program}: {_one_line(reason)}: make it possible and run again", file=sys.stderr)
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


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


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
        print(_overview(program, commands, default))
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
        f"expected a command ({names}), got {words[0]!r}{_suggest(words[0], commands)}: see --help"
    )


def _suggest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _overview(
    program: str, commands: Mapping[str, type[Command]], default: type[Command] | None
) -> str:
    lines = [f"usage: {program} COMMAND [FLAGS]", ""]
    if default is not None:
        lines = [f"usage: {program} [COMMAND] FLAGS", "", _help(program, default), "", "commands:"]
    width = max((len(name) for name in commands), default=0)
    lines += [f"  {name:{width}}  {_summary(command)}" for name, command in commands.items()]
    return "\n".join([*lines, "", f"`{program} COMMAND --help` tells more."])


def _summary(command: type[Command]) -> str:
    return (inspect.getdoc(command) or "").split("\n", 1)[0]


def _help(name: str, command: type[Command]) -> str:
    """Render help from the dataclass: its docstring (with the example), then a line a flag."""
    rows = []
    for item in _fields(command):
        flag = item.name.upper() if item.metadata.get("positional") else _flag(item)
        rows.append((flag, f"{item.metadata.get('help', '')}{_default_text(item)}"))
    width = max((len(flag) for flag, _ in rows), default=0)
    lines = [f"usage: {name} [FLAGS]", "", inspect.getdoc(command) or "", "", "flags:"]
    return "\n".join([*lines, *(f"  {flag:{width}}  {text}" for flag, text in rows)])


def _flag(item: dataclasses.Field[Any]) -> str:
    return f"--{item.name.replace('_', '-')}"


def _default_text(item: dataclasses.Field[Any]) -> str:
    if item.default is dataclasses.MISSING:
        return "" if item.metadata.get("positional") else " (required)"
    if item.default is None or item.default == ():
        return ""
    value = item.default
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f" (default: {text})"


def _fields(command: type[Command]) -> tuple[dataclasses.Field[Any], ...]:
    # What a command says itself comes first in its help, then what it inherits.
    own = inspect.get_annotations(command)
    return tuple(
        sorted(dataclasses.fields(cast("Any", command)), key=lambda item: item.name not in own)
    )


def _parse(name: str, command: type[Command], words: list[str]) -> Command:
    if any(word in {"-h", "--help"} for word in words):
        print(_help(name, command))
        raise SystemExit(0)
    _reject_unknown_flags(command, words)
    recorded = _record(command, _close_switches(command, words))
    hints = typing.get_type_hints(command)
    values = {
        item.name: _convert(recorded[item.name], hints[item.name], item)
        for item in _fields(command)
        if item.name in recorded
    }
    missing = [
        _flag(item)
        for item in _fields(command)
        if item.name not in values and item.default is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(f"{', '.join(missing)} required: see {name} --help")
    return command(**values)


def _reject_unknown_flags(command: type[Command], words: list[str]) -> None:
    """Name the flag that is not known; fire would only say which argument it could not consume."""
    known = {_flag(item) for item in _fields(command) if not item.metadata.get("positional")}
    for word in words:
        flag = word.split("=", 1)[0].replace("_", "-")
        if word.startswith("--") and flag not in known:
            raise UsageError(
                f"unknown flag {word.split('=', 1)[0]}{_suggest(flag, known)}, nothing was run: "
                "see --help"
            )


def _close_switches(command: type[Command], words: list[str]) -> list[str]:
    """Write `--quiet` as `--quiet=True`, or fire would take the word after it as its value.

    And `--threshold -inf` as `--threshold=-inf`, or fire would take `-inf` for a flag.
    """
    hints = typing.get_type_hints(command)
    switches = {_flag(item) for item in _fields(command) if hints[item.name] is bool}
    closed: list[str] = []
    for word in words:
        if word.lower() in _SIGNED and closed and closed[-1].startswith("--"):
            closed[-1] += f"={word}"
        else:
            closed.append(f"{word}=True" if word.replace("_", "-") in switches else word)
    return closed


def _record(command: type[Command], words: list[str]) -> dict[str, Any]:
    """Let fire bind the words to the command's fields, running nothing."""
    recorded: dict[str, Any] = {}
    recorder = _recorder(command, recorded)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(complaint):
            fire.Fire(recorder, command=words)
    except fire_core.FireExit as stop:
        reason = complaint.getvalue().strip().splitlines()
        first = reason[0].removeprefix("ERROR: ") if reason else f"status {stop.code}"
        raise UsageError(f"{first}: see --help") from None
    return recorded


def _recorder(command: type[Command], recorded: dict[str, Any]) -> Callable[..., None]:
    items = _fields(command)
    keyword = inspect.Parameter.KEYWORD_ONLY
    positional = [item.name for item in items if item.metadata.get("positional")]
    parameters = [inspect.Parameter(p, inspect.Parameter.VAR_POSITIONAL) for p in positional]
    parameters += [
        inspect.Parameter(item.name, keyword, default=None)
        for item in items
        if not item.metadata.get("positional")
    ]

    def record(*words: str, **flags: str | None) -> None:
        recorded.update({name: value for name, value in flags.items() if value is not None})
        if words:
            recorded[positional[0]] = words

    cast("Any", record).__signature__ = inspect.Signature(parameters)
    # Everything arrives as text: fire would turn `--seeds 1,2` into a tuple and `1e3` into a float.
    decorated: Callable[..., None] = decorators.SetParseFn(str)(record)
    return decorated


def _convert(value: Any, hint: Any, item: dataclasses.Field[Any]) -> Any:
    name = item.name.upper() if item.metadata.get("positional") else _flag(item)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {types.UnionType, typing.Union}:
        inner = next(a for a in arguments if a is not types.NoneType)
        return _convert(value, inner, item)
    if origin is tuple:
        parts = value if isinstance(value, tuple) else [p for p in value.split(",") if p]
        return tuple(_convert(part, arguments[0], item) for part in parts)
    if origin is Literal:
        if value not in arguments:
            raise UsageError(f"{name} expects one of {', '.join(arguments)}, got {value!r}")
        return value
    return _scalar(value, hint, name)


def _scalar(text: str, kind: Any, name: str) -> Any:
    if kind is bool:
        if text.lower() not in {"true", "false"}:
            raise UsageError(f"{name} is a switch: expected no value or =false, got {text!r}")
        return text.lower() == "true"
    if text == "True":  # fire's value for a flag that stands alone
        raise UsageError(f"{name} expects a value, got none")
    if kind in {str, Path}:
        return kind(text)
    try:
        return kind(text)
    except ValueError:
        noun = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise UsageError(f"{name} expects {noun}, got {text!r}") from None
