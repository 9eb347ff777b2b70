"""The command `gatekeeper completion`, which prints a script for a shell."""

from __future__ import annotations

import importlib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edge_runtime.cli import Command, field
from edge_runtime.cli.command import flag_name
from edge_runtime.cli.gatekeeper import COMMANDS, PROGRAM, Target
from edge_runtime.cli.help import choices, fields

Flags = Mapping[str, tuple[str, ...]]
"""The flags of a command, with the values that each may have; none where it takes any."""
_BASH = """\
_{name}() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} words=
  if ((COMP_CWORD == 1)); then
    words="{commands}"
  else
    case "${{COMP_WORDS[1]}} $prev" in
{values}
    esac
    if [[ -z $words && $cur == -* ]]; then
      case "${{COMP_WORDS[1]}}" in
{flags}
      esac
    fi
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o bashdefault -o default -F _{name} {name}
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


@dataclass(frozen=True, kw_only=True)
class CompletionSettings(Command, does="edge_runtime.commands.completion:print_script"):
    """Print a script with which a shell completes commands, flags and their values.

    Example: python -m edge_runtime completion --shell bash >> ~/.bashrc
    """

    shell: Literal["bash", "zsh", "fish"] = field("the shell", default="bash")


def print_script(settings: CompletionSettings) -> None:
    """Print the script."""
    commands = {name: _flags(target) for name, target in COMMANDS.items()}
    print(_fish(commands) if settings.shell == "fish" else _bash(commands, settings.shell), end="")


def _flags(target: Target) -> Flags:
    try:
        module = importlib.import_module(f"{target.package}.__main__")
    except ModuleNotFoundError:  # a library that a device lacks
        return {}
    command = module.COMMANDS[target.command]
    hints = typing.get_type_hints(command)
    named = [item for item in fields(command) if not item.metadata.get("positional")]
    return {flag_name(item): choices(hints[item.name]) for item in named}


def _bash(commands: Mapping[str, Flags], shell: str) -> str:
    values = [
        f'      "{name} {flag}") words="{" ".join(choices)}" ;;'
        for name, flags in commands.items()
        for flag, choices in flags.items()
        if choices
    ]
    flags = [f'        {name}) words="{" ".join(flags)}" ;;' for name, flags in commands.items()]
    text = _BASH.format(
        name=PROGRAM,
        commands=" ".join(commands),
        values="\n".join(values),
        flags="\n".join(flags),
    )
    return _ZSH + text if shell == "zsh" else text


def _fish(commands: Mapping[str, Flags]) -> str:
    lines = [
        f"complete -c {PROGRAM} -n __fish_use_subcommand -f -a {name} -d '{COMMANDS[name].does}'"
        for name in commands
    ]
    for name, flags in commands.items():
        seen = f"complete -c {PROGRAM} -n '__fish_seen_subcommand_from {name}'"
        for flag, allowed in flags.items():
            values = f" -x -a '{' '.join(allowed)}'" if allowed else ""
            lines.append(f"{seen} -l {flag.removeprefix('--')}{values}")
    return "\n".join(lines) + "\n"
