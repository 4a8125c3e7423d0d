"""Reuse of freed memory by the C library, which speeds up training on the CPU.

glibc returns every large tensor to the system when it is freed, and the next step requests it
again, memory page by memory page. On virtual machines that can cost more than the arithmetic.
"""

from __future__ import annotations

import ctypes
import sys

# M_TRIM_THRESHOLD and M_MMAP_MAX of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_MAX_THRESHOLD = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the C library of this process reuse freed memory instead of returning it to the system.

    It changes the process, so programs call it, and the library does not.

    Returns:
        Whether the C library supports it.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    try:
        mallopt = library.mallopt
    except AttributeError:  # musl has none
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _MAX_THRESHOLD)) and bool(mallopt(_MMAP_MAX, 0))
