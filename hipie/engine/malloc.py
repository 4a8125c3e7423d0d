"""Keep freed memory: what training on a CPU gains most from, and large images gain a quarter.

glibc gives every large tensor back to the system when it is freed, and the next step asks for it
anew, page by page. On virtual machines that can cost more than the arithmetic.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask the C library to reuse freed memory instead of returning it; False where it cannot."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _NEVER)) and bool(mallopt(_MMAP_MAX, 0))
