r"""Turns the words of a command line into settings.

python-fire parses the line, but binds it to a recorder: fire calls a function *before* it checks
the rest of the line, so a misspelt flag would run the command with that flag's default. The
settings are built, and the command runs, only once the whole line has been parsed.

Text converts to `str`, `int`, `float`, `bool`, `Path`, an optional of these, a `Literal`, and
tuples of them (`--seeds 0,1,2`; `\,` is a comma inside an element). A positional tuple takes the
words that are not flags, a repeated one (`--stop , --stop .`) each of its flags' values. The
object of a command is a word or a flag (`inspect BUNDLE`, `inspect --bundle BUNDLE`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import io
import re
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import fire
from fire import core as fire_core
from fire import decorators

from edge_runtime.cli.command import Command, flag_name, renamed
from edge_runtime.cli.help import fields, page, show
from edge_runtime.errors import GatekeeperError

_SIGNED = {"-inf", "-infinity", "-nan"}
_COMMA = re.compile(r"(?<!\\),")


class UsageError(GatekeeperError):
    """The command line is invalid; nothing was run."""


def suggest(word: str, known: Any) -> str:
    """Return a hint at the most similar known word, or an empty text."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def parse(name: str, command: type[Command], argv: list[str]) -> Command:
    """Return the settings of a command line.

    Raises:
        UsageError: A flag is unknown, missing or of the wrong type.
        SettingError: A value is out of bounds or contradicts another.
        SystemExit: The line asks for help, which is printed.
    """
    if any(word in {"-h", "--help"} for word in argv):
        show(page(name, command))
        raise SystemExit(0)
    argv = _rename(command, argv)
    _reject_unknown_flags(command, argv)
    repeated, rest = _take_repeated(command, argv)
    recorded = _record(command, _close_switches(command, rest)) | repeated
    hints = typing.get_type_hints(command)
    values = {
        item.name: _convert(recorded[item.name], hints[item.name], item)
        for item in fields(command)
        if item.name in recorded
    }
    missing = [
        flag_name(item)
        for item in fields(command)
        if item.name not in values and item.default is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(f"{', '.join(missing)} required: see {name} --help")
    return command(**values)


def _rename(command: type[Command], argv: list[str]) -> list[str]:
    """Write flags under their present names, and say so."""
    names = {f"--{old}": f"--{new}".replace("_", "-") for old, new in renamed(command).items()}
    words = []
    for word in argv:
        flag, equals, value = word.partition("=")
        new = names.get(f"--{flag[2:].replace('-', '_')}") if flag.startswith("--") else None
        if new is not None:
            print(f"note: {flag} is now called {new}", file=sys.stderr)
        words.append(word if new is None else f"{new}{equals}{value}")
    return words


def _reject_unknown_flags(command: type[Command], argv: list[str]) -> None:
    """Name the unknown flag: fire would only name the argument that it could not consume."""
    known = {flag_name(item) for item in fields(command) if not item.metadata.get("positional")}
    for word in argv:
        flag = word.split("=", 1)[0].replace("_", "-")
        if word.startswith("--") and flag not in known:
            raise UsageError(
                f"unknown flag {word.split('=', 1)[0]}{suggest(flag, known)}, nothing was run: "
                "see --help"
            )


def _take_repeated(
    command: type[Command], argv: list[str]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return the values of repeated flags, and the other words; fire would keep the last value."""
    names = {
        flag_name(item): item.name for item in fields(command) if item.metadata.get("repeated")
    }
    taken: dict[str, tuple[str, ...]] = {}
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if flag not in names:
            rest.append(word)
            continue
        value = value if equals else next(words, "--")
        if not equals and value.startswith("--"):
            raise UsageError(f"{flag} expects a value, got none: write {flag}=VALUE")
        taken[names[flag]] = (*taken.get(names[flag], ()), value)
    return taken, rest


def _close_switches(command: type[Command], argv: list[str]) -> list[str]:
    """Write `--quiet` as `--quiet=True`, or fire would take the next word as its value.

    Likewise `--threshold -inf` as `--threshold=-inf`, or fire would take `-inf` for a flag.
    """
    hints = typing.get_type_hints(command)
    switches = {flag_name(item) for item in fields(command) if hints[item.name] is bool}
    closed: list[str] = []
    for word in argv:
        if word.lower() in _SIGNED and closed and closed[-1].startswith("--"):
            closed[-1] += f"={word}"
        else:
            closed.append(f"{word}=True" if word.replace("_", "-") in switches else word)
    return closed


def _record(command: type[Command], argv: list[str]) -> dict[str, Any]:
    """Let fire bind the words to the command's fields, without running anything."""
    recorded: dict[str, Any] = {}
    recorder = _recorder(command, recorded)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(complaint):
            # A lone "-" would part two calls; for us it names standard input.
            fire.Fire(recorder, command=[*argv, "--", "--separator=\0"])
    except fire_core.FireExit as stop:
        reason = complaint.getvalue().strip().splitlines()
        first = reason[0].removeprefix("ERROR: ") if reason else f"status {stop.code}"
        raise UsageError(f"{first}: see --help") from None
    return recorded


def _recorder(command: type[Command], recorded: dict[str, Any]) -> Callable[..., None]:
    items = fields(command)
    keyword = inspect.Parameter.KEYWORD_ONLY
    positional = [item.name for item in items if item.metadata.get("positional")]
    objects = [item.name for item in items if item.metadata.get("word")]
    parameters = [
        inspect.Parameter(p, inspect.Parameter.VAR_POSITIONAL)
        for p in positional or [f"word_{name}" for name in objects]
    ]
    parameters += [
        inspect.Parameter(item.name, keyword, default=None)
        for item in items
        if not item.metadata.get("positional")
    ]

    def record(*words: str, **flags: str | None) -> None:
        recorded.update({name: value for name, value in flags.items() if value is not None})
        if words and positional:
            recorded[positional[0]] = words
        elif words:
            recorded[objects[0]] = _single(words, objects[0], flags.get(objects[0]))

    cast("Any", record).__signature__ = inspect.Signature(parameters)
    # Keep every value as text: fire would turn `--seeds 1,2` into a tuple and `1e3` into a float.
    decorated: Callable[..., None] = decorators.SetParseFn(str)(record)
    return decorated


def _single(words: tuple[str, ...], name: str, by_flag: str | None) -> str:
    given = [*words, *([] if by_flag is None else [by_flag])]
    if len(given) > 1:
        raise UsageError(f"expected one {name.upper()}, got {' '.join(given)}: see --help")
    return words[0]


def _convert(value: Any, hint: Any, item: dataclasses.Field[Any]) -> Any:
    name = flag_name(item)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {types.UnionType, typing.Union}:
        inner = next(a for a in arguments if a is not types.NoneType)
        return _convert(value, inner, item)
    if origin is tuple:
        if isinstance(value, tuple) and arguments[0] is str:
            return value  # words as they came, even if one of them is "True"
        parts = value if isinstance(value, tuple) else _elements(value, name)
        return tuple(_convert(part, arguments[0], item) for part in parts)
    if origin is Literal:
        if value not in arguments:
            hint = suggest(str(value), arguments)
            raise UsageError(f"{name} expects one of {', '.join(arguments)}, got {value!r}{hint}")
        return value
    return _scalar(value, hint, name)


def _elements(text: str, name: str) -> list[str]:
    if not text:
        return []
    parts = [part.replace("\\,", ",") for part in _COMMA.split(text)]
    if not all(parts):
        raise UsageError(
            f"{name} expects elements between commas, got {text!r}: write \\, for a comma in one"
        )
    return parts


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
