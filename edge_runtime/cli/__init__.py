"""The command line that every package shares: commands as data, their flags, and how they run."""

from edge_runtime.cli.command import Command, field, resolve
from edge_runtime.cli.line import BAD_USAGE, FAILED, main

__all__ = ["BAD_USAGE", "FAILED", "Command", "field", "main", "resolve"]
