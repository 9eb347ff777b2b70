"""A deferral budget for metered links: at most so many calls or bytes in any window of time.

    budget = DeferralBudget(max_calls=1_000, max_bytes=50 << 20, window_s=86_400)
    if (held := budget.reserve(len(request))) is None:
        ...  # over the budget: M_S's answer it is
    else:
        sent_bytes = send(request)
        budget.settle(held, sent_bytes)

No window of `window_s` seconds, wherever it begins, ever holds more than the budget. That is why it
is no token bucket, which lets a full bucket and a refill into one window, twice the budget.
Time is counted in slots of a 64th of the window: what was sent comes free again with its slot, one
to one and a 64th windows later, never sooner. So memory is constant, however much is sent.
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
    """A place in the budget.

    Attributes:
        slot: Which slot of time is charged for it.
        reserved_bytes: How much.
    """

    slot: int
    reserved_bytes: int


@dataclass(frozen=True)
class Remaining:
    """What of a budget is left.

    Attributes:
        calls: How many more; None where they are not limited.
        bytes: How much more; None where they are not limited.
    """

    calls: int | None
    bytes: int | None


@dataclass(slots=True)
class _Slot:
    number: int
    calls: int
    bytes: int


class DeferralBudget:
    """Says which deferred requests may be sent.

    Safe to share between threads: of two that want the last place one gets it. The guarantee is for
    the moments of sending, wherever these lie between `reserve` and `settle`, while no call takes
    longer than the window and none sends more than it reserved.

    Args:
        max_calls: Most requests in any window; None is no limit.
        max_bytes: Most bytes sent in any window; None is no limit.
        window_s: Length of the window in seconds.
        clock: Seconds that never run backwards. The default does not heed what is done to the
            clock on the wall; where it stands still while the device sleeps, the window lasts
            longer.

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
        self._slots: deque[_Slot] = deque()  # oldest first, those with a charge alone
        self._calls = 0
        self._bytes = 0

    def reserve(self, request_bytes: int) -> Reservation | None:
        """Take a place for one request before it is sent.

        Args:
            request_bytes: How much will be sent at most, retries included.

        Returns:
            What `settle` or `refund` takes; None where the budget does not have it.

        Raises:
            SettingError: The size is negative.
        """
        _check_size(request_bytes)
        with self._lock:
            slot = self._now()
            if self.max_calls is not None and self._calls >= self.max_calls:
                return None
            if self.max_bytes is not None and self._bytes + request_bytes > self.max_bytes:
                return None
            self._charge(slot, 1, request_bytes)
            return Reservation(slot, request_bytes)

    def settle(self, reservation: Reservation, sent_bytes: int) -> None:
        """Charge what was really sent, as sent now; once a reservation, when its call has ended.

        A reservation that is never settled stays charged as reserved.

        Args:
            reservation: What `reserve` gave.
            sent_bytes: How much was sent. More than was reserved is charged as well and may pass
                the budget, as it cannot be taken back.

        Raises:
            SettingError: The size is negative.
        """
        _check_size(sent_bytes)
        with self._lock:
            slot = self._now()
            self._give_back(reservation)
            self._charge(slot, 1, sent_bytes)

    def refund(self, reservation: Reservation) -> None:
        """Give a place back, because nothing was sent; once a reservation, instead of `settle`."""
        with self._lock:
            self._give_back(reservation)

    def remaining(self) -> Remaining:
        """Return what could be sent now."""
        with self._lock:
            self._now()
            return Remaining(
                None if self.max_calls is None else max(self.max_calls - self._calls, 0),
                None if self.max_bytes is None else max(self.max_bytes - self._bytes, 0),
            )

    def _now(self) -> int:
        """Return the current slot, and forget those that are out of every window that ends now."""
        slot = round(self._clock() * _NS) // self._slot_ns
        slots = self._slots
        while slots and slots[0].number < slot - _SLOTS:
            gone = slots.popleft()
            self._calls -= gone.calls
            self._bytes -= gone.bytes
        return slot

    def _charge(self, slot: int, calls: int, size_bytes: int) -> None:
        if not self._slots or self._slots[-1].number != slot:
            self._slots.append(_Slot(slot, 0, 0))
        self._slots[-1].calls += calls
        self._slots[-1].bytes += size_bytes
        self._calls += calls
        self._bytes += size_bytes

    def _give_back(self, reservation: Reservation) -> None:
        """Undo a charge; one whose slot is out of the window has been undone by that."""
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
