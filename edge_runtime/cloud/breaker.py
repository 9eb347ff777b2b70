"""A circuit breaker: keeps calls off a server that is gone, and finds out when it is back.

After some failures in a row the circuit is open: calls fail at once and wait for no deadline. A
thread in the background probes the server meanwhile, so that no caller's input is spent on finding
out, and closes the circuit as soon as a probe succeeds (Nygard, Release It!, 2007, chapter 5).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from edge_runtime.errors import (
    CloudCircuitOpenError,
    CloudError,
    CloudRejectedError,
    CloudUnavailableError,
    SettingError,
)

_JITTER: Final = 0.2
"""Share by which probes spread, so that a million devices do not come back at one moment."""


@dataclass(frozen=True)
class BreakerSettings:
    """When the circuit opens, and how often it is probed.

    Attributes:
        failures: So many failures in a row open it. A request that the server refused is none: it
            was the request's own fault.
        probe_interval_s: Pause between probes, in seconds.
    """

    failures: int = 5
    probe_interval_s: float = 0.5

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise SettingError(f"expected at least 1 as breaker failures, got {self.failures}")
        if not 0 < self.probe_interval_s < float("inf"):
            raise SettingError(
                f"expected probe_interval_s in seconds over 0, got {self.probe_interval_s}"
            )


class CircuitBreaker:
    """Counts failures in a row, and probes while it is open; safe for threads.

    Args:
        probe: Asks the server whether it is back; returns at the latest after a second or two. One
            that raises has failed like one that says no.
        settings: When to open, how often to probe.
    """

    def __init__(self, probe: Callable[[], bool], settings: BreakerSettings) -> None:
        self._probe = probe
        self._settings = settings
        self._lock = threading.Lock()
        self._failures = 0
        self._reason: CloudError | None = None
        self._opened_s = 0.0
        self._openings = 0
        self._closing = threading.Event()

    @property
    def is_open(self) -> bool:
        """Whether calls are kept off the server."""
        return self._reason is not None

    def check(self) -> None:
        """Let a call through.

        Raises:
            CloudCircuitOpenError: The circuit is open.
        """
        reason = self._reason
        if reason is not None:
            raise CloudCircuitOpenError(
                f"not asked, the circuit breaker is open for {monotonic() - self._opened_s:.1f} s "
                f"and probes every {self._settings.probe_interval_s:g} s; the last try: {reason}"
            )

    def succeeded(self) -> None:
        """Count an answer: the server is there, whatever a probe will say."""
        # Read without the lock: nearly every call ends here.
        if self._failures or self._reason is not None:
            with self._lock:
                self._close_circuit()

    def failed(self, error: CloudError) -> None:
        """Count a failure, and open the circuit where it is one too many."""
        if isinstance(error, CloudRejectedError):
            self.succeeded()
            return
        with self._lock:
            self._failures += 1
            if self._failures < self._settings.failures or self._reason is not None:
                return
            self._reason, self._opened_s = error, monotonic()
            self._openings += 1
            # Daemonic: a program that ends must not wait for the network.
            threading.Thread(
                target=self._probe_until_back, args=(self._openings,), name="probe", daemon=True
            ).start()

    def close(self) -> None:
        """Stop probing for good."""
        self._closing.set()

    def _probe_until_back(self, opening: int) -> None:
        pause_s = self._settings.probe_interval_s
        while not self._closing.wait(pause_s * random.uniform(1 - _JITTER, 1 + _JITTER)):
            # A call that was on its way may have brought an answer, and others failed since.
            if not self.is_open or opening != self._openings:
                return
            if self._is_back():
                with self._lock:
                    self._close_circuit()
                return

    def _is_back(self) -> bool:
        try:
            return self._probe()
        except Exception as error:  # noqa: BLE001 - unprobed, the circuit would stay open for ever
            with self._lock:
                if self._reason is not None:
                    self._reason = CloudUnavailableError(f"its probe fails: {error!r}")
            return False

    def _close_circuit(self) -> None:
        self._failures, self._reason = 0, None
