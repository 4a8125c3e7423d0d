"""Pause of Python's cyclic garbage collector while large annotation files are parsed."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Disable the cyclic garbage collector inside a block or, as a decorator, a function.

    Parsed annotations hold millions of objects and no reference cycles, so that every collection
    is wasted: reading takes half of the time without it (`benchmarks/data.py`). The collector is
    enabled again afterwards if it was enabled before.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
