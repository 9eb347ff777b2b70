"""The commands of `python -m export`; without a command name, `build` runs."""

import sys

from edge_runtime.cli import main
from export.commands.build import BuildSettings
from export.commands.inspect import InspectSettings
from export.commands.language import LanguageSettings
from export.commands.retune import RetuneSettings
from export.commands.verify import VerifySettings

COMMANDS = {
    "build": BuildSettings,
    "lm": LanguageSettings,
    "retune": RetuneSettings,
    "inspect": InspectSettings,
    "verify": VerifySettings,
}

DEFAULT = BuildSettings

if __name__ == "__main__":
    sys.exit(main("python -m export", COMMANDS, default=DEFAULT))
