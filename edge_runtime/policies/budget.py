"""A deferral budget for metered links: a limit on calls or bytes in any window of time.

    budget = DeferralBudget(max_calls=1_000, max_bytes=50 << 20, window_s=86_400)
    if (held := budget.reserve(len(request))) is None:
        ...  # over the budget: M_S answers
    else:
        sent_bytes = send(request)
        budget.settle(held, sent_bytes)

No window of `window_s` seconds, wherever it starts, ever holds more than the budget. A token bucket
would allow twice the budget: a full bucket and a refill within one window.
Time is counted in slots of 1/64 of the window. A charge expires with its slot, after between 1 and
1 1/64 windows, never sooner, so memory stays constant however much is sent.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge_runtime.errors import SettingError

_SLOTS: Final = 64
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Reservation:
    """One reserved request: the time slot that is charged, and the charge in bytes."""

    slot: int
    reserved_bytes: int


@dataclass(frozen=True)
class Remaining:
    """The calls and bytes left in a budget; None where they are not limited."""

    calls: int | None
    bytes: int | None


@dataclass(slots=True)
class _Slot:
    number: int
    calls: int
    bytes: int


class DeferralBudget:
    """Decides which deferred requests may be sent.

    Safe to share between threads: of two that want the last place one gets it. The guarantee covers
    the moments of sending, wherever they lie between `reserve` and `settle`, provided that no call
    takes longer than the window and none sends more than it reserved.

    Args:
        max_calls: Most requests in any window; None is no limit.
        max_bytes: Most bytes sent in any window; None is no limit.
        window_s: Length of the window in seconds.
        clock: Monotonic clock in seconds. The default ignores changes to the wall clock; where it
            stops while the device sleeps, the window lasts longer.

    Raises:
        SettingError: Neither limit is given, or a setting is out of range.
    """

    def __init__(
        self,
        *,
        max_calls: int | None = None,
        max_bytes: int | None = None,
        window_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_calls is None and max_bytes is None:
            raise SettingError("expected max_calls or max_bytes, got neither: leave the budget out")
        for name, limit in (("max_calls", max_calls), ("max_bytes", max_bytes)):
            if limit is not None and limit < 0:
                raise SettingError(f"expected {name} of at least 0, got {limit}")
        if not 0 < window_s < float("inf"):
            raise SettingError(f"expected window_s in seconds, more than 0, got {window_s}")
        self.max_calls = max_calls
        self.max_bytes = max_bytes
        self.window_s = window_s
        self._clock = clock
        # Rounded up, so that 64 slots are never shorter than the window.
        self._slot_ns = int(window_s * _NS) // _SLOTS + 1
        self._lock = threading.Lock()
        self._slots: deque[_Slot] = deque()  # oldest first, only those with a charge
        self._calls = 0
        self._bytes = 0

    def reserve(self, request_bytes: int) -> Reservation | None:
        """Reserve a request of at most this size, retries included; None where nothing is left."""
        _check_size(request_bytes)
        with self._lock:
            slot = self._now()
            if self.max_calls is not None and self._calls >= self.max_calls:
                return None
            if self.max_bytes is not None and self._bytes + request_bytes > self.max_bytes:
                return None
            self._charge(slot, request_bytes)
            return Reservation(slot, request_bytes)

    def settle(self, reservation: Reservation, sent_bytes: int) -> None:
        """Charge the bytes actually sent, as sent now; once per reservation, after its call.

        A reservation that is never settled stays charged in full. An excess over the reservation is
        charged too and may exceed the budget, as it cannot be taken back.
        """
        _check_size(sent_bytes)
        with self._lock:
            slot = self._now()
            self._release(reservation)
            self._charge(slot, sent_bytes)

    def refund(self, reservation: Reservation) -> None:
        """Cancel a reservation because nothing was sent; once, instead of `settle`."""
        with self._lock:
            self._release(reservation)

    def remaining(self) -> Remaining:
        """Return the calls and bytes that could be sent now."""
        with self._lock:
            self._now()
            return Remaining(
                None if self.max_calls is None else max(self.max_calls - self._calls, 0),
                None if self.max_bytes is None else max(self.max_bytes - self._bytes, 0),
            )

    def _now(self) -> int:
        """Return the current slot, and drop the slots outside every window that ends now."""
        slot = round(self._clock() * _NS) // self._slot_ns
        slots = self._slots
        while slots and slots[0].number < slot - _SLOTS:
            expired = slots.popleft()
            self._calls -= expired.calls
            self._bytes -= expired.bytes
        return slot

    def _charge(self, slot: int, size_bytes: int) -> None:
        if not self._slots or self._slots[-1].number != slot:
            self._slots.append(_Slot(slot, 0, 0))
        self._slots[-1].calls += 1
        self._slots[-1].bytes += size_bytes
        self._calls += 1
        self._bytes += size_bytes

    def _release(self, reservation: Reservation) -> None:
        """Undo a charge, unless it has expired with its slot."""
        for slot in reversed(self._slots):
            if slot.number == reservation.slot:
                slot.calls -= 1
                slot.bytes -= reservation.reserved_bytes
                self._calls -= 1
                self._bytes -= reservation.reserved_bytes
                return


def _check_size(size_bytes: int) -> None:
    if size_bytes < 0:
        raise SettingError(f"expected a size of at least 0 bytes, got {size_bytes}")
