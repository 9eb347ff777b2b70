"""What a process holds of memory and took of processor time, as the system counts it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_KIB: Final = 1024
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


def peak_resident_bytes() -> int | None:
    """Return the most that this process was resident with, or None where the system does not tell.

    Not `getrusage`, which counts what the parent held when it started this process.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    peak = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if peak is None else int(peak) * _KIB


def processor_s(process: int) -> float | None:
    """Return the processor time of a process and those it started, None where it is not told.

    Args:
        process: Its id; a child that has ended is not counted.
    """
    folder = Path("/proc") / str(process)
    try:
        stat = (folder / "stat").read_text(encoding="ascii")
        children = (folder / "task" / str(process) / "children").read_text(encoding="ascii")
    except OSError:
        return None
    # The second field, the name, may hold spaces; user and system time are the 14th and 15th.
    user, system = stat.rpartition(")")[2].split()[11:13]
    own = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return own + sum(processor_s(int(child)) or 0.0 for child in children.split())
