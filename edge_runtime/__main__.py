"""`python -m edge_runtime`."""

import sys

from edge_runtime.cli import main
from edge_runtime.commands.completion import CompletionSettings
from edge_runtime.commands.doctor import DoctorSettings
from edge_runtime.commands.generate import GenerateSettings
from edge_runtime.commands.run import RunSettings

COMMANDS = {
    "run": RunSettings,
    "generate": GenerateSettings,
    "doctor": DoctorSettings,
    "completion": CompletionSettings,
}

DEFAULT = None

if __name__ == "__main__":
    sys.exit(main("python -m edge_runtime", COMMANDS, default=DEFAULT))
