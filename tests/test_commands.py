"""What holds for every command of every package: it is data, and its data are checked."""

import dataclasses
import importlib
import inspect
import typing
from pathlib import Path

import pytest

from edge_runtime.cli import Command, main, resolve
from edge_runtime.cli.command import flag_name
from edge_runtime.errors import SettingError

PACKAGES = ("edge_runtime", "train", "export", "cloud_stub", "benchmarks")
COMMANDS = {
    f"{package} {name}": command
    for package in PACKAGES
    for name, command in importlib.import_module(f"{package}.__main__").COMMANDS.items()
}
BOUNDED = [
    pytest.param(command, item, id=f"{line} {flag_name(item)}")
    for line, command in COMMANDS.items()
    for item in dataclasses.fields(command)
    if item.metadata.get("bounds") is not None or item.metadata.get("nonempty")
]
SAMPLES = {str: "x", Path: Path("x"), int: 1, float: 1.0, bool: False}


def sample(hint):
    """Return some value of a required field's type."""
    if typing.get_origin(hint) is tuple:
        return (sample(typing.get_args(hint)[0]),)
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)[0]
    return SAMPLES[hint]


def required(command):
    hints = typing.get_type_hints(command)
    return {
        item.name: sample(hints[item.name])
        for item in dataclasses.fields(command)
        if item.default is dataclasses.MISSING or item.metadata.get("nonempty")
    }


def outside(bounds):
    """Return a value on the wrong side of each limit, and what is no number at all."""
    values = {"least": -1, "above": 0, "most": 1, "below": 0}
    limits = {name: getattr(bounds, name) for name in values}
    wrong = [limit + values[name] for name, limit in limits.items() if limit is not None]
    return [*wrong, float("nan"), float("inf")]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command_names_a_function_that_takes_its_settings(command):
    assert issubclass(command, Command)
    worker = resolve(command.does)
    first, *rest = inspect.signature(worker).parameters.values()
    hint = typing.get_type_hints(worker)[first.name]
    assert issubclass(command, hint)
    assert all(parameter.default is not parameter.empty for parameter in rest)


@pytest.mark.parametrize("line", COMMANDS)
def test_the_help_of_a_command_has_an_example_and_a_text_for_each_flag(line, capsys):
    package, name = line.split()
    with pytest.raises(SystemExit) as stop:
        main(f"python -m {package}", {name: COMMANDS[line]}, argv=[name, "--help"])
    assert stop.value.code == 0
    assert f"Example: python -m {package}" in capsys.readouterr().out
    assert all(item.metadata["help"] for item in dataclasses.fields(COMMANDS[line]))


@pytest.mark.parametrize(("command", "item"), BOUNDED)
def test_a_value_out_of_bounds_is_refused_by_the_name_of_its_flag(command, item):
    is_tuple = typing.get_origin(typing.get_type_hints(command)[item.name]) is tuple
    bounds = item.metadata.get("bounds")
    wrong = outside(bounds) if bounds is not None else []
    values = [(value,) if is_tuple else value for value in wrong]
    for value in [*values, *([()] if item.metadata.get("nonempty") else [])]:
        with pytest.raises(SettingError, match=flag_name(item)):
            command(**{**required(command), item.name: value})
