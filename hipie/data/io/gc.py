"""Python's garbage collector, paused while a large file becomes a million objects.

It goes through all objects again and again as they get more, and finds nothing: what a file holds
has no cycles. Reading takes half of the time without it (`benchmarks/data.py`).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No collection inside; also a decorator. It is on afterwards if it was on before."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
