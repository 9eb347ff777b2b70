"""A circuit breaker: stops calls to a server that is down, and resumes them when it is back.

After several failures in a row the circuit opens: calls fail at once instead of waiting for their
deadlines. A background thread probes the server, so that no caller's input is used as a probe, and
closes the circuit once a probe succeeds (Nygard, Release It!, 2007, chapter 5).
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
"""Relative spread of the probes, so that a million devices do not return at one moment."""


@dataclass(frozen=True)
class BreakerSettings:
    """Settings of a circuit breaker.

    Attributes:
        failures: Number of failures in a row that open the circuit. A request that the server
            refused does not count: the request itself was at fault.
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
    """Counts failures in a row, and probes while the circuit is open; safe for threads.

    Args:
        probe: Function that returns, within a second or two, whether the server is back. An
            exception counts as no.
        settings: Number of failures and interval of the probes.
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
        """True while calls are not sent to the server."""
        return self._reason is not None

    def check(self) -> None:
        """Raise a `CloudCircuitOpenError` while the circuit is open."""
        reason = self._reason
        if reason is not None:
            raise CloudCircuitOpenError(
                f"not sent, the circuit breaker is open for {monotonic() - self._opened_s:.1f} s "
                f"and probes every {self._settings.probe_interval_s:g} s; the last error: {reason}"
            )

    def record_success(self) -> None:
        """Count an answer: the server is up, whatever a probe finds."""
        # Read without the lock, as nearly every call ends here.
        if self._failures or self._reason is not None:
            with self._lock:
                self._close_circuit()

    def record_failure(self, error: CloudError) -> None:
        """Count a failure, and open the circuit once there are too many."""
        if isinstance(error, CloudRejectedError):
            self.record_success()
            return
        with self._lock:
            self._failures += 1
            if self._failures < self._settings.failures or self._reason is not None:
                return
            self._reason, self._opened_s = error, monotonic()
            self._openings += 1
            # A daemon: a program that ends must not wait for the network.
            threading.Thread(
                target=self._probe_until_back, args=(self._openings,), name="probe", daemon=True
            ).start()

    def close(self) -> None:
        """Stop probing for good."""
        self._closing.set()

    def _probe_until_back(self, opening: int) -> None:
        pause_s = self._settings.probe_interval_s
        while not self._closing.wait(pause_s * random.uniform(1 - _JITTER, 1 + _JITTER)):
            # A call in flight may have closed the circuit, and later failures opened it again.
            if not self.is_open or opening != self._openings:
                return
            if self._is_back():
                with self._lock:
                    self._close_circuit()
                return

    def _is_back(self) -> bool:
        try:
            return self._probe()
        except Exception as error:  # noqa: BLE001 - without probes the circuit would stay open
            with self._lock:
                if self._reason is not None:
                    self._reason = CloudUnavailableError(f"its probe fails: {error!r}")
            return False

    def _close_circuit(self) -> None:
        self._failures, self._reason = 0, None
