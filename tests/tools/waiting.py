"""Waits for what comes in its own time, and no longer than that."""

import time


def wait_for(find, within_s=30.0):
    """Return the first true answer of `find`, or its last one when the time is over."""
    end = time.monotonic() + within_s
    while not (found := find()) and time.monotonic() < end:
        time.sleep(0.02)
    return found
