"""Features of this machine's processor that the figures of int8 graphs depend on."""

import platform
from pathlib import Path

import pytest

_CPU_INFO = Path("/proc/cpuinfo")
SATURATES = platform.machine() in {"x86_64", "AMD64"} and not (
    _CPU_INFO.is_file() and "_vnni" in _CPU_INFO.read_text(encoding="utf-8")
)
"""True on x86 without VNNI, where sums of products of 8 bits may saturate."""
needs_exact_int8 = pytest.mark.skipif(SATURATES, reason="sums of int8 saturate without VNNI")
