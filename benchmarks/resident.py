"""The memory that a process holds, as the system counts it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

NOT_COUNTED: Final = "this system has no /proc/PID/statm"


def resident_bytes(process: int | None = None) -> int | None:
    """Return the resident set of a process, or None where the system does not tell.

    Args:
        process: Its id; this process when None.
    """
    statm = Path("/proc") / ("self" if process is None else str(process)) / "statm"
    try:
        pages = statm.read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
