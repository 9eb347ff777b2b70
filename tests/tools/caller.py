"""A program that calls a cloud which does not answer, and that is interrupted meanwhile.

    python tests/tools/caller.py BUNDLE ADDRESS SCENARIO

It prints a line before it waits, and one for the outcome.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import numpy as np

from edge_runtime import Cascade
from edge_runtime.cloud.breaker import BreakerSettings

PICTURE = np.zeros((8, 8, 3), np.uint8)
_PROBING = {"deadline_s": 0.1, "breaker": BreakerSettings(failures=1, probe_interval_s=0.01)}


def say(text: str) -> None:
    print(text, flush=True)


def wait_in_a_call(cascade: Cascade) -> None:
    """Wait for an answer, be interrupted, close."""
    say("waiting")
    try:
        cascade(PICTURE)
    except KeyboardInterrupt:
        say("interrupted")
        cascade.close()
        say("closed")


def wait_with_an_open_breaker(cascade: Cascade) -> None:
    """Keep calling while the breaker probes in the background, be interrupted, close."""
    cascade(PICTURE)
    say("waiting")
    try:
        while "circuit breaker is open" in cascade(PICTURE).error:
            time.sleep(0.01)
    except KeyboardInterrupt:
        say("interrupted")
        cascade.close()
        say("closed")


def stream(cascade: Cascade) -> None:
    """Call repeatedly until the input ends; print start, seconds, source and error of each call."""
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    while not over.wait(0.01):
        start = time.monotonic()
        answer = cascade(PICTURE)
        say(f"{start}\t{time.monotonic() - start}\t{answer.source}\t{answer.error}")
    cascade.close()


def end_without_close(cascade: Cascade) -> None:
    """End without closing, while probes may run in the background."""
    say(cascade(PICTURE).error)
    time.sleep(0.3)


def fork(cascade: Cascade) -> None:
    """Call in a child of this process, then here again."""
    say(cascade(PICTURE).source)
    pid = os.fork()
    if not pid:
        signal.alarm(20)  # a child that hangs ends
        try:
            answer = cascade(PICTURE)
            say(f"child: {answer.source}: {answer.error}")
        except Exception as error:  # noqa: BLE001 - the parent reports any error
            say(f"child: {type(error).__name__}: {error}")
        os._exit(0)
    os.waitpid(pid, 0)
    say(f"parent: {cascade(PICTURE).source}")
    cascade.close()
    say("closed")


SCENARIOS = {
    "call": (wait_in_a_call, {"deadline_s": 60}),
    "probing": (wait_with_an_open_breaker, _PROBING),
    "unclosed": (end_without_close, _PROBING),
    "fork": (fork, {"deadline_s": 2}),
    "stream": (stream, {"deadline_s": 0.5}),
}

if __name__ == "__main__":
    scenario, options = SCENARIOS[sys.argv[3]]
    scenario(Cascade.open(sys.argv[1], cloud=sys.argv[2], threshold=2.0, **options))
