"""The command `gatekeeper completion`, which prints a script for a shell."""

from __future__ import annotations

import importlib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from edge_runtime.cli import Command, field
from edge_runtime.cli.command import flag_name
from edge_runtime.cli.gatekeeper import COMMANDS, PACKAGES, PROGRAM
from edge_runtime.cli.help import choices, fields
from edge_runtime.errors import SettingError

_BASH = """\
_{name}() {{
  local cur=$2 prev=$3 line=${{COMP_WORDS[1]-}} words= switches= takes=files start=
  # bash makes words of --flag=value at its =, zsh does not.
  if [[ $cur == --*=* ]]; then
    prev=${{cur%%=*}} start=${{cur%%=*}}= cur=${{cur#*=}}
  fi
  [[ $cur == = ]] && cur=
  [[ $prev == = ]] && prev=${{COMP_WORDS[COMP_CWORD-2]}}
  [[ ${{COMP_WORDS[COMP_CWORD]}} == = ]] && prev=${{COMP_WORDS[COMP_CWORD-1]}}
  if ((COMP_CWORD == 1)); then
    words="{commands} --help --version"
  else
    if ((COMP_CWORD > 2)) && [[ " {packages} " == *" $line "* && ${{COMP_WORDS[2]}} != -* ]]; then
      line+=" ${{COMP_WORDS[2]}}"
    fi
    case "$line" in
{lines}
    esac
    case "$line $prev" in
{values}
      *) if [[ $cur != -* ]]; then
           if [[ $prev == -* && " $switches " != *" $prev "* ]]; then
             words=  # the value of a flag: a file, or what only its user knows
           elif [[ $takes == files ]]; then
             words=
           fi
         fi ;;
    esac
  fi
  COMPREPLY=($(compgen -P "$start" -W "$words" -- "$cur"))
}}
complete -o bashdefault -o default -F _{name} {name}
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
_HELP = "--help"


@dataclass(frozen=True, kw_only=True)
class CompletionSettings(Command, does="edge_runtime.commands.completion:print_script"):
    """Print a script with which a shell completes commands, flags and their values.

    Example: python -m edge_runtime completion bash
    """

    shell: tuple[Literal["bash", "zsh", "fish"], ...] = field(
        "the shell", default=("bash",), positional=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.shell) != 1:
            raise SettingError(f"expected one shell, got {', '.join(self.shell)}")


class Flag(NamedTuple):
    """What a shell may know of a flag, or of the words that are no flags.

    Attributes:
        name: As on the command line; empty for those words.
        text: What it is for.
        values: The values that it may have; none where it may have any.
        is_switch: Whether it takes none.
    """

    name: str
    text: str
    values: tuple[str, ...]
    is_switch: bool


def print_script(settings: CompletionSettings) -> None:
    """Print the script of a shell."""
    (shell,) = settings.shell
    flags, nested = _lines()
    if shell == "fish":
        print(_fish(flags, nested), end="")
    else:
        print((_ZSH if shell == "zsh" else "") + _bash(flags, nested), end="")


def _lines() -> tuple[dict[str, list[Flag]], dict[str, list[str]]]:
    """Return start of a line -> its flags, and package -> the commands that follow its name."""
    flags: dict[str, list[Flag]] = {}
    nested: dict[str, list[str]] = {}
    for package in PACKAGES:
        try:
            module = importlib.import_module(f"{package.replace('-', '_')}.__main__")
        except ModuleNotFoundError:  # a library that a device lacks
            continue
        nested[package] = list(module.COMMANDS)
        flags |= {f"{package} {name}": _flags(it) for name, it in module.COMMANDS.items()}
        if module.DEFAULT is not None:
            flags[package] = _flags(module.DEFAULT)
    for name, target in COMMANDS.items():
        line = f"{target.package.replace('_', '-')} {target.command}"
        if line in flags:
            flags.setdefault(name, flags[line])
    return flags, nested


def _flags(command: type[Command]) -> list[Flag]:
    hints = typing.get_type_hints(command)
    return [
        Flag(
            "" if item.metadata.get("positional") else flag_name(item),
            item.metadata["help"],
            choices(hints[item.name]),
            hints[item.name] is bool,
        )
        for item in fields(command)
    ]


def _bash(flags: Mapping[str, list[Flag]], nested: Mapping[str, list[str]]) -> str:
    lines, values = [], []
    for line in [*flags, *(package for package in nested if package not in flags)]:
        here = flags.get(line, [])
        named = [flag for flag in here if flag.name]
        words = [*nested.get(line, []), *(flag.name for flag in named), _HELP]
        words += [value for flag in here if not flag.name for value in flag.values]
        switches = " ".join(flag.name for flag in named if flag.is_switch)
        takes = "files" if any(not flag.name and not flag.values for flag in here) else "flags"
        lines.append(
            f'      "{line}") words="{" ".join(words)}" switches="{switches}" takes={takes} ;;'
        )
        values += [
            f'      "{line} {flag.name}") words="{" ".join(flag.values)}" ;;'
            for flag in named
            if flag.values
        ]
    return _BASH.format(
        name=PROGRAM,
        commands=" ".join(dict.fromkeys([*COMMANDS, *PACKAGES])),
        packages=" ".join(nested),
        lines="\n".join(lines),
        values="\n".join(values),
    )


def _fish(flags: Mapping[str, list[Flag]], nested: Mapping[str, list[str]]) -> str:
    start = f"complete -c {PROGRAM}"
    first = f"{start} -n __fish_use_subcommand"
    lines = [f"{first} -f -a {name} -d {_quoted(it.does)}" for name, it in COMMANDS.items()]
    lines += [f"{first} -f -a {name} -d {_quoted(text)}" for name, text in PACKAGES.items()]
    lines += [f"{first} -l {name}" for name in ("help", "version")]
    for package, names in nested.items():
        second = f"__fish_seen_subcommand_from {package}; and test (count (commandline -opc)) -eq 2"
        lines.append(f"{start} -n '{second}' -f -a {_quoted(' '.join(names))}")
    for line, here in flags.items():
        words = line.split()
        tests = [
            f'test "$(commandline -opc)[{place}]" = {word}' for place, word in enumerate(words, 2)
        ]
        if line in nested:  # its own flags, before a command of the package
            tests.append(f"not __fish_seen_subcommand_from {' '.join(nested[line])}")
        seen = f"{start} -n {_quoted('; and '.join(tests))}"
        for flag in here:
            lines.append(seen + _fish_flag(flag))
    return "\n".join(lines) + "\n"


def _fish_flag(flag: Flag) -> str:
    values = f" -a {_quoted(' '.join(flag.values))}" if flag.values else ""
    if not flag.name:
        return (" -f" if values else " -F") + values
    takes = "" if flag.is_switch else " -x" if values else " -r"
    return f" -l {flag.name.removeprefix('--')}{takes}{values} -d {_quoted(flag.text)}"


def _quoted(text: str) -> str:
    """Quote a text for fish, whose single quotes may hold an escaped one."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
