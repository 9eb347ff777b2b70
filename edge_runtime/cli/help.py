"""The pages of `--help`, rendered from the settings classes."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import sys
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from edge_runtime.cli.command import Command, flag_name

GLOSSARY = "https://github.com/gatekeeper-edge/gatekeeper-edge/blob/main/docs/glossary.md"
"""Where every term is defined."""
_WIDTH = 100
_EXAMPLE = re.compile(r"Example: python -m \w+(?: [a-z][a-z-]*)?(?=\s)")


def overview(
    program: str, commands: Mapping[str, type[Command]], default: type[Command] | None
) -> str:
    """Return a program's page: each command with the first line of its docstring."""
    lines = [f"usage: {program} COMMAND [FLAGS]", ""]
    if default is not None:
        lines = [f"usage: {program} [COMMAND] FLAGS", "", *_body(default), "", "commands:"]
    lines += _columns([(name, _describe(command)[0]) for name, command in commands.items()])
    return "\n".join([*lines, "", f"Run `{program} COMMAND --help` for the flags of a command."])


def page(name: str, command: type[Command]) -> str:
    """Return a command's page: its docstring with the example, then its flags."""
    word = "".join(f" {i.name.upper()}" for i in fields(command) if i.metadata.get("word"))
    body = [f"usage: {name}{word} [FLAGS]", "", *_body(command), "", *_wrap(f"terms: {GLOSSARY}")]
    text = "\n".join(body)
    return text if name.startswith("python") else _EXAMPLE.sub(f"Example: {name}", text)


def show(text: str) -> None:
    """Print a page; raise a `BrokenPipeError` where its reader closed the pipe before the end."""
    print(text, flush=True)


def drop_output() -> None:
    """Drop output that cannot be written, or Python would complain about it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def fields(command: type[Command]) -> tuple[dataclasses.Field[Any], ...]:
    """Return the flags of a command, its own before the inherited ones."""
    own = inspect.get_annotations(command)
    return tuple(
        sorted(dataclasses.fields(cast("Any", command)), key=lambda item: item.name not in own)
    )


def choices(hint: object) -> tuple[str, ...]:
    """Return the values that a field's type allows; none where it allows any."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return tuple(choice for part in typing.get_args(hint) for choice in choices(part))


def _body(command: type[Command]) -> list[str]:
    hints = typing.get_type_hints(command)
    rows = [
        (flag_name(item), f"{item.metadata.get('help', '')}{_notes(item, hints[item.name])}")
        for item in fields(command)
    ]
    return [*_describe(command), "", "flags:", *_columns(rows)]


def _columns(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield lines with the texts beside the names, within the width."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        yield from _wrap(f"  {name:{width}}  {text}", indent=width + 4)


def _wrap(line: str, indent: int = 0) -> list[str]:
    return textwrap.wrap(
        line,
        _WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _describe(command: type[Command]) -> list[str]:
    return (inspect.getdoc(command) or "").split("\n")


def _notes(item: dataclasses.Field[Any], hint: object) -> str:
    """Return the values that a flag takes and its default, in brackets."""
    several = typing.get_origin(hint) is tuple
    names = ", ".join(choices(hint))
    notes = [f"{'of' if several else 'one of'} {names}"] if names else []
    value = item.default
    if value is dataclasses.MISSING:
        notes += [] if item.metadata.get("positional") else ["required"]
    elif value is not None and value is not False and value not in ((), ""):
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        notes.append(f"default: {'on' if value is True else text}")
    return f" ({'; '.join(notes)})" if notes else ""
