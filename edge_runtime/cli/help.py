"""The pages of `--help`, rendered from the settings classes."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from edge_runtime.cli.command import Command, flag_name

_EXAMPLE = re.compile(r"Example: python -m \w+(?: [a-z][a-z-]*)?(?=\s)")


def overview(
    program: str, commands: Mapping[str, type[Command]], default: type[Command] | None
) -> str:
    """Return a program's page: each command with the first line of its docstring."""
    lines = [f"usage: {program} COMMAND [FLAGS]", ""]
    if default is not None:
        lines = [f"usage: {program} [COMMAND] FLAGS", "", *_body(default), "", "commands:"]
    width = max((len(name) for name in commands), default=0)
    for name, command in commands.items():
        lines.append(f"  {name:{width}}  {_describe(command)[0]}")
    return "\n".join([*lines, "", f"Run `{program} COMMAND --help` for the flags of a command."])


def page(name: str, command: type[Command]) -> str:
    """Return a command's page: its docstring with the example, then one line per flag."""
    text = "\n".join([f"usage: {name} [FLAGS]", "", *_body(command)])
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


def _body(command: type[Command]) -> list[str]:
    rows = [
        (flag_name(item), f"{item.metadata.get('help', '')}{_notes(item)}")
        for item in fields(command)
    ]
    width = max((len(flag) for flag, _ in rows), default=0)
    lines = [f"  {flag:{width}}  {text}" for flag, text in rows]
    return [*_describe(command), "", "flags:", *lines]


def _describe(command: type[Command]) -> list[str]:
    return (inspect.getdoc(command) or "").split("\n")


def _notes(item: dataclasses.Field[Any]) -> str:
    if item.default is dataclasses.MISSING:
        return "" if item.metadata.get("positional") else " (required)"
    if item.default is None or item.default is False or item.default == ():
        return ""
    value = item.default
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f" (default: {text})"
