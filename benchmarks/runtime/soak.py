"""Calls a cascade over and over, and tells what memory it holds meanwhile.

A process of its own, so that nothing else lives in the memory that is watched. Run as
`python -m benchmarks.runtime.soak BUNDLE SEED CALLS [ADDRESS]`: without an address the edge answers
everything, with one everything is deferred. Prints a line `calls bytes` a sample, then one of how
many answers came from whom.
"""

from __future__ import annotations

import gc
import json
import sys
from typing import Final

from benchmarks.processes import resident_bytes
from benchmarks.untrained import SIDE, random_picture
from edge_runtime import Cascade

_SAMPLES: Final = 200
_DEADLINE_S: Final = 5.0


def soak(bundle: str, seed: int, calls: int, address: str | None) -> None:
    """Make so many calls."""
    picture = random_picture(SIDE, seed)
    threshold = float("-inf" if address is None else "inf")
    with Cascade.open(
        bundle, cloud=address, threshold=threshold, threads=1, deadline_s=_DEADLINE_S
    ) as cascade:
        done = 0
        for sample in range(1, min(_SAMPLES, calls) + 1):
            until = calls * sample // min(_SAMPLES, calls)
            for _ in range(until - done):
                cascade(picture)
            done = until
            gc.collect()  # what waits to be collected is no leak
            print(done, resident_bytes(), flush=True)
        sources = cascade.stats.snapshot().sources
    print(json.dumps({name: latency.count for name, latency in sources.items()}), flush=True)


if __name__ == "__main__":
    soak(
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        sys.argv[4] if len(sys.argv) > 4 else None,  # noqa: PLR2004 - the fourth word
    )
