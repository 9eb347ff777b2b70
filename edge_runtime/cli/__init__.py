"""The command line of every package: commands as data, their flags, and one way to run them."""

from edge_runtime.cli.command import Command, field, resolve
from edge_runtime.cli.line import BAD_USAGE, FAILED, main

__all__ = ["BAD_USAGE", "FAILED", "Command", "field", "main", "resolve"]
