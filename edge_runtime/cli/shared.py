"""Flags that several commands share, each as a class to inherit."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.cli.command import Command, field


@dataclass(frozen=True, kw_only=True)
class Overwrite(Command):
    """`--overwrite`, for a command that writes one folder."""

    overwrite: bool = field("replace the output folder", default=False)


@dataclass(frozen=True, kw_only=True)
class Seed(Command):
    """`--seed`, for a command that draws random numbers."""

    seed: int = field("seed of all random draws", default=0, least=0)


@dataclass(frozen=True, kw_only=True)
class Limit(Command):
    """`--limit`, for a command that reads labelled data."""

    limit: int | None = field("use at most this many inputs per split", default=None, least=1)
