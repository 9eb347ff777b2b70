"""What can go wrong in a measurement.

BenchmarkError (GatekeeperError)
├── ServerStartError (ConnectionError)   a server process did not come up
└── CheckError (ValueError)              a printed figure is not what the per-sample file gives
"""

from __future__ import annotations

from edge_runtime.errors import GatekeeperError


class BenchmarkError(GatekeeperError):
    """A measurement could not be made."""


class ServerStartError(BenchmarkError, ConnectionError):
    """A server process ended or stayed silent instead of becoming ready."""


class CheckError(BenchmarkError, ValueError):
    """A printed figure and its recomputation differ, or a result folder is incomplete."""
