"""The memory that the system still gives this process, and the limits of calls that fit into it.

A process that runs into such a limit ends: gRPC aborts where a small block fails, and the kernel
kills what outgrows its control group. So the calls get a part of what is left, known beforehand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloud_stub.errors import LimitError
from cloud_stub.scheduling.queue import MOST_BYTES
from cloud_stub.scheduling.workers import MIB

_RESERVE: Final = 128 * MIB
"""Bytes for the stacks of further threads, 8 MiB each, and for connections."""
_HELD_PART: Final = 4  # of the rest, for what calls hold; the model works with half of it
_RECEIVED_PART: Final = 8  # for messages that are being received: calls, and as many streams
_FEWEST_READS: Final = 4  # one that takes long does not hold up all others
_BATCH_PART: Final = 128  # for the inputs of a batch; two may run at once
_UNLIMITED: Final = 1 << 60  # of a control group without a limit, in version 1


@dataclass(frozen=True)
class CallLimits:
    """Limits of the calls together.

    Attributes:
        message_mib: Largest message, in MiB.
        memory_mib: Most memory that all calls may hold, in MiB.
        reads: Most calls, and most streams, whose message is being received; None for any number.
        batch_bytes: Most bytes of the inputs of a batch, of which a model makes a multiple; None
            for the usual number.
    """

    message_mib: int
    memory_mib: int
    reads: int | None = None
    batch_bytes: int | None = None

    def within(self, headroom: int | None) -> CallLimits:
        """Return these limits, lowered to what fits into some bytes; None is any number of them.

        Raises:
            LimitError: Not even calls of 1 MiB fit.
        """
        if headroom is None:
            return self
        rest = max(0, headroom - _RESERVE) // MIB
        received = rest // _RECEIVED_PART
        message = min(self.message_mib, received // _FEWEST_READS)
        if message < 1:
            least = _RESERVE // MIB + _RECEIVED_PART * _FEWEST_READS
            raise LimitError(
                f"expected at least {least} MiB that the system still gives to calls, got "
                f"{headroom // MIB}: raise its limit (ulimit -v, or that of the container)"
            )
        memory = min(self.memory_mib, max(rest // _HELD_PART, message))
        batch_bytes = min(MOST_BYTES, rest * MIB // _BATCH_PART)
        return CallLimits(message, memory, received // message, batch_bytes)


def headroom(proc: Path = Path("/proc/self"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that the system still gives this process; None without a limit.

    Args:
        proc: Linux' folder of this process; other systems have none, nor a limit that can be read.
        groups: Linux' folder of control groups.
    """
    return min([*_left_of_process(proc), *_left_of_groups(proc, groups)], default=None)


def _left_of_process(proc: Path) -> Iterator[int]:
    try:
        import resource

        status = _read_counts(proc / "status")
    except (ImportError, OSError):  # not a Unix, or not Linux
        return
    for number, used in ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")):
        limit, _ = resource.getrlimit(number)
        if limit != resource.RLIM_INFINITY:
            yield limit - status[used] * 1024


def _left_of_groups(proc: Path, groups: Path) -> Iterator[int]:
    """Yield what is left in each control group around this process, in either version of them."""
    with contextlib.suppress(OSError):
        for line in (proc / "cgroup").read_text(encoding="utf-8").splitlines():
            _, kinds, name = line.split(":", 2)
            if kinds in {"", "memory"}:
                root = groups / kinds
                # In a container the name may be one outside of it.
                inner = root / name.lstrip("/")
                for folder in dict.fromkeys((inner, *inner.parents, root)):
                    if folder.is_relative_to(root):
                        yield from _left_of_group(folder)


def _left_of_group(folder: Path) -> Iterator[int]:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            most = int((folder / limit).read_text(encoding="utf-8"))
            if most < _UNLIMITED:
                counts = _read_counts(folder / "memory.stat")
                # Files that were read count as used until their place is needed.
                cached = counts.get("total_inactive_file", counts.get("inactive_file", 0))
                yield most - int((folder / used).read_text(encoding="utf-8")) + cached


def _read_counts(file: Path) -> dict[str, int]:
    words = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}
