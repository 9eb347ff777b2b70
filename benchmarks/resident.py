"""What a process holds of memory and took of processor time, as the system counts it."""

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


def processor_s(process: int) -> float | None:
    """Return the processor time that a process has taken, or None where the system does not tell.

    Args:
        process: Its id; processes that it started are not counted.
    """
    try:
        stat = (Path("/proc") / str(process) / "stat").read_text(encoding="ascii")
    except OSError:
        return None
    # The second field, the name, may hold spaces; user and system time are the 14th and 15th.
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
