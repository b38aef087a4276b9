"""How much memory this process holds."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

_libc = ctypes.CDLL(None)


def rss_kib() -> int:
    """Resident memory without what malloc keeps for later."""
    gc.collect()
    _libc.malloc_trim(0)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS in /proc/self/status")
