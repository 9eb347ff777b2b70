"""The errors of a measurement.

BenchmarkError (GatekeeperError)
├── ServerStartError (ConnectionError)   a server process did not start
└── CheckError (ValueError)              a printed figure does not follow from the samples
"""

from __future__ import annotations

from edge_runtime.errors import GatekeeperError


class BenchmarkError(GatekeeperError):
    """A measurement could not be made."""


class ServerStartError(BenchmarkError, ConnectionError):
    """A server process ended, or printed no address in time."""


class CheckError(BenchmarkError, ValueError):
    """A printed figure and its recomputation differ, or a result folder is incomplete."""
