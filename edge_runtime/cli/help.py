"""The pages that `--help` prints, rendered from the settings classes."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, cast

from edge_runtime.cli.command import Command, flag_name


def overview(
    program: str, commands: Mapping[str, type[Command]], default: type[Command] | None
) -> str:
    """Return the page of a program: each command with the first line of its docstring."""
    lines = [f"usage: {program} COMMAND [FLAGS]", ""]
    if default is not None:
        lines = [f"usage: {program} [COMMAND] FLAGS", "", page(program, default), "", "commands:"]
    width = max((len(name) for name in commands), default=0)
    lines += [f"  {name:{width}}  {_summary(command)}" for name, command in commands.items()]
    return "\n".join([*lines, "", f"Run `{program} COMMAND --help` for the flags of a command."])


def page(name: str, command: type[Command]) -> str:
    """Return the page of a command: its docstring with the example, then one line per flag."""
    rows = [
        (flag_name(item), f"{item.metadata.get('help', '')}{_notes(item)}")
        for item in fields(command)
    ]
    width = max((len(flag) for flag, _ in rows), default=0)
    lines = [f"usage: {name} [FLAGS]", "", inspect.getdoc(command) or "", "", "flags:"]
    return "\n".join([*lines, *(f"  {flag:{width}}  {text}" for flag, text in rows)])


def fields(command: type[Command]) -> tuple[dataclasses.Field[Any], ...]:
    """Return the flags of a command, its own before those that it inherits."""
    own = inspect.get_annotations(command)
    return tuple(
        sorted(dataclasses.fields(cast("Any", command)), key=lambda item: item.name not in own)
    )


def _summary(command: type[Command]) -> str:
    return (inspect.getdoc(command) or "").split("\n", 1)[0]


def _notes(item: dataclasses.Field[Any]) -> str:
    if item.default is dataclasses.MISSING:
        return "" if item.metadata.get("positional") else " (required)"
    if item.default is None or item.default in ((), ""):
        return ""
    value = item.default
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f" (default: {text})"
