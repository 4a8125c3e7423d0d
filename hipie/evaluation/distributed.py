"""Collection of results from all processes on the first one."""

from __future__ import annotations

import itertools
from typing import Any, TypeVar

import numpy as np
from detectron2.utils import comm
from numpy.typing import NDArray

T = TypeVar("T")


def gather_lists(items: list[T], distributed: bool) -> list[T] | None:
    """Concatenate the lists of all processes; None on all but the first process."""
    if not distributed:
        return items
    comm.synchronize()
    lists = comm.gather(items, dst=0)
    return list(itertools.chain(*lists)) if comm.is_main_process() else None


def gather_sum(counts: NDArray[Any], distributed: bool) -> NDArray[Any] | None:
    """Sum the arrays of all processes; None on all but the first process."""
    if not distributed:
        return counts
    comm.synchronize()
    arrays = comm.gather(counts, dst=0)
    return np.sum(arrays, axis=0) if comm.is_main_process() else None
