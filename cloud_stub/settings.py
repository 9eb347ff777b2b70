"""The command line of the server."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from edge_runtime import contract
from edge_runtime.cli import field
from edge_runtime.errors import SettingError
from edge_runtime.wire.address import MAX_PORT


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Serve a large model over the Open Inference Protocol until SIGTERM or Ctrl-C.

    Example: python -m cloud_stub --checkpoint runs/demo/large --port 8001
    """

    checkpoint: Path | None = field("Folder of a checkpoint to serve.", default=None)
    bundle: Path | None = field("Folder of an exported bundle to serve instead.", default=None)
    port: int = field("TCP port; 0 takes a free one and names it.", default=8001)
    host: str = field(
        "Address to listen on; another than loopback is plaintext to all.", default="127.0.0.1"
    )
    model: str = field("Name that callers ask for.", default=contract.DEFAULT_MODEL)
    threads: int = field("Threads of the model; 0 leaves it to the library.", default=0)
    grace: float = field("Seconds that calls in flight may take after SIGTERM.", default=10.0)

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.bundle is None):
            raise SettingError("expected one of --checkpoint and --bundle: name the model's folder")
        if not 0 <= self.port <= MAX_PORT:
            raise SettingError(f"expected --port from 0 to {MAX_PORT}, got {self.port}")
        if self.threads < 0:
            raise SettingError(f"expected --threads of 0 or more, got {self.threads}")
        if not (math.isfinite(self.grace) and self.grace >= 0):
            raise SettingError(f"expected --grace as seconds of 0 or more, got {self.grace}")
        if not (self.model and self.host):
            raise SettingError("expected --model and --host to be non-empty")

    def run(self) -> None:
        """Serve until a signal asks to stop.

        Raises:
            ListenError: The address cannot be listened on.
            GatekeeperError: The model cannot be opened.
        """
        from cloud_stub import server

        server.run(self)
