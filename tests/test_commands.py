"""What holds for every command of every package: it is data, and its data are checked."""

import dataclasses
import importlib
import inspect
import re
import typing
from pathlib import Path

import pytest

from edge_runtime.cli import Command, main, resolve
from edge_runtime.cli.arguments import UsageError, parse
from edge_runtime.cli.command import flag_name, renamed
from edge_runtime.cli.help import GLOSSARY, choices, overview, page
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


@pytest.mark.parametrize("line", COMMANDS)
def test_the_help_of_a_command_fits_the_width_and_has_every_choice(line):
    text = page(f"python -m {line}", COMMANDS[line])
    assert max(map(len, text.splitlines())) <= 100
    assert GLOSSARY in text
    words = " ".join(text.split())
    for item in dataclasses.fields(COMMANDS[line]):
        names = choices(typing.get_type_hints(COMMANDS[line])[item.name])
        assert f"of {', '.join(names)}" in words if names else True
        typed = ", ".join(names[:-1])
        assert not names or len(names) < 3 or typed not in item.metadata["help"]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_overview_of_a_package_fits_the_width(package):
    module = importlib.import_module(f"{package}.__main__")
    text = overview(f"python -m {package}", module.COMMANDS, module.DEFAULT)
    assert max(map(len, text.splitlines())) <= 100


UNITS = {
    "_s": "second|day",
    "_ms": "millisecond|ms",
    "_kb": "kilobyte",
    "_mb": "MB",
    "_mib": "MiB",
    "_bytes": "bytes",
    "size": "pixel|inputs|examples",
    "_port": "port",
    "deferral": "share|ratio|deferral",
}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_number_names_its_unit_in_its_name_or_its_help(line):
    hints = typing.get_type_hints(COMMANDS[line])
    for item in dataclasses.fields(COMMANDS[line]):
        is_number = {int, float} & {hints[item.name], *typing.get_args(hints[item.name])}
        text = item.metadata["help"]
        if is_number and re.search(r"\b(seconds|milliseconds)\b", text) and "length" not in text:
            assert item.name.endswith(("_s", "_ms")), item.name
        for suffix, unit in UNITS.items():
            if is_number and item.name.endswith(suffix):
                assert re.search(unit, text), f"{item.name}: {text}"


OTHERS = {"dataset", "large_dataset", "task_data", "deadline", "timeout", "lr", "workers", "output"}


@pytest.mark.parametrize("line", COMMANDS)
def test_one_thing_has_one_name(line):
    """These are what other programs call --data, --deadline-s, --learning-rate, --out, --jobs."""
    for item in dataclasses.fields(COMMANDS[line]):
        assert item.name not in OTHERS


OLD = [
    pytest.param(command, old, new, id=f"{line} --{old}")
    for line, command in COMMANDS.items()
    for old, new in renamed(command).items()
]


@pytest.mark.parametrize(("command", "old", "new"), OLD)
def test_an_earlier_name_of_a_flag_still_works_and_is_not_shown(command, old, new, capsys):
    value = "7" if typing.get_type_hints(command)[new] is float else "digits"
    needs = {"ServeSettings": "--checkpoint", "HarvestBenchmarkSettings": "--large"}
    words = [needs[command.__name__], "x"] if command.__name__ in needs else []
    flag = f"--{old.replace('_', '-')}"
    assert str(getattr(parse("x", command, [*words, flag, value]), new)) in {value, f"{value}.0"}
    assert f"{flag} is now called --{new.replace('_', '-')}" in capsys.readouterr().err
    assert f" {flag} " not in page("python -m x", command)


OBJECTS = [
    pytest.param(command, item, id=f"{line} {item.name.upper()}")
    for line, command in COMMANDS.items()
    for item in dataclasses.fields(command)
    if item.metadata.get("word")
]


@pytest.mark.parametrize(("command", "item"), OBJECTS)
def test_the_object_of_a_command_is_a_word_or_a_flag(command, item):
    rest = {"VerifySettings": ["--data", "digits"], "RetuneSettings": ["--threshold", "0.5"]}
    words = rest.get(command.__name__, [])
    by_word = parse("x", command, ["b", *words])
    assert by_word == parse("x", command, [*words, "--bundle", "b"])
    for twice in (["b", "--bundle", "c"], ["b", "c"]):
        with pytest.raises(UsageError, match="expected one BUNDLE"):
            parse("x", command, [*words, *twice])
    assert "BUNDLE [FLAGS]" in page("python -m x", command)


@pytest.mark.parametrize(("command", "item"), BOUNDED)
def test_a_value_out_of_bounds_is_refused_by_the_name_of_its_flag(command, item):
    is_tuple = typing.get_origin(typing.get_type_hints(command)[item.name]) is tuple
    bounds = item.metadata.get("bounds")
    wrong = outside(bounds) if bounds is not None else []
    values = [(value,) if is_tuple else value for value in wrong]
    for value in [*values, *([()] if item.metadata.get("nonempty") else [])]:
        with pytest.raises(SettingError, match=flag_name(item)):
            command(**{**required(command), item.name: value})


SWAPPED = {
    "checkpoint": ("bundle", "data", "picture.onnx", "data.zip"),
    "bundle": ("checkpoint", "data", "picture.onnx", "data.zip"),
    "data": ("checkpoint", "bundle", "picture.onnx", "data.zip"),
    "onnx": ("checkpoint", "bundle", "data"),
    "program": ("checkpoint", "bundle", "picture.onnx", "data.zip"),
}
KINDS = {
    "checkpoint": "a model's folder, which --checkpoint takes",
    "bundle": "a bundle, which --bundle takes",
    "data": "a folder of folders",
    "picture.onnx": "an ONNX file, which --onnx takes",
    "data.zip": "a zip archive: unpack it first",
}
FURTHER = {
    "edge_runtime run": ["a.png"],
    "edge_runtime generate": ["a prompt"],
    "export build": ["--threshold", "0.5"],
    "export build --program": ["--labels", "labels.txt"],
    "export build --onnx": ["--labels", "labels.txt"],
    "export retune": ["--threshold", "0.5"],
    "export verify --bundle": ["--data", "digits"],
    "cloud_stub deploy --onnx": ["--labels", "labels.txt"],
}
WITHIN = {"train convert --data", "train tasks --data", "export retune --data"}
"""These belong to other flags or to language models."""
WORKERS = [
    pytest.param(line, flag, id=f"{line} --{flag}")
    for line, command in COMMANDS.items()
    for flag in sorted({item.name for item in dataclasses.fields(command)} & SWAPPED.keys())
    # Those of language models read their task first, and have a test of their own.
    if not line.endswith("lm")
    and line.split()[1] not in {"demo", "harvest", "quantization"}
    and f"{line} --{flag}" not in WITHIN
]


@pytest.fixture(scope="module")
def things(tmp_path_factory, bundle, small_checkpoint):
    """Return a folder with what is easily taken for another thing."""
    place = tmp_path_factory.mktemp("things")
    for name, folder in {"bundle": bundle, "checkpoint": small_checkpoint}.items():
        (place / name).symlink_to(folder)
    for split in ("train", "test"):
        (place / "data" / split / "cat").mkdir(parents=True)
    (place / "picture.onnx").write_bytes(b"picture")
    (place / "data.zip").write_bytes(b"PK")
    (place / "labels.txt").write_text("cat\ndog")
    return place


def words_for(line, flag, path, things):
    """Return a line that names a path by a flag, and the rest that the command needs."""
    command, given = COMMANDS[line], {flag: str(path)}
    hints = typing.get_type_hints(command)
    fitting = {"bundle": "bundle", "checkpoint": "checkpoint", "out": "out", "large": "checkpoint"}
    for item in dataclasses.fields(command):
        if item.default is dataclasses.MISSING and item.name not in given:
            name = fitting.get(item.name)
            given[item.name] = str(things / name) if name else sample(hints[item.name])
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return [*flags, *FURTHER.get(line, []), *FURTHER.get(f"{line} --{flag}", [])]


@pytest.mark.slow
@pytest.mark.parametrize(("line", "flag"), WORKERS)
def test_a_path_to_another_thing_is_recognised(line, flag, things, capfd, monkeypatch):
    monkeypatch.chdir(things)
    package, name = line.split()
    for kind in SWAPPED[flag]:
        words = words_for(line, flag, things / kind, things)
        commands = {name: COMMANDS[line]}
        assert main(f"python -m {package}", commands, argv=[name, *words]) != 0
        told = capfd.readouterr()
        assert (told.out + told.err).count(KINDS[kind]) == 1, (words, told)
