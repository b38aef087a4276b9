"""How much memory this process holds."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

import pytest

_libc = ctypes.CDLL(None)


def rss_kib() -> int:
    """Resident memory without what malloc keeps for later.

    Skips the test under a sanitizer, whose allocator holds on to what was freed.
    """
    if "san.so" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("a sanitizer holds on to freed memory")
    gc.collect()
    _libc.malloc_trim(0)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS in /proc/self/status")
