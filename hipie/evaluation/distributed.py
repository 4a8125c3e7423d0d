"""Bringing what the processes counted to the first of them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from detectron2.utils import comm


def gather_lists(items: list[Any], distributed: bool) -> list[Any] | None:
    """The lists of all processes one after another; None on all but the first process."""
    if not distributed:
        return items
    comm.synchronize()
    parts = comm.gather(items, dst=0)
    return list(itertools.chain(*parts)) if comm.is_main_process() else None


def gather_sum(counts: np.ndarray, distributed: bool) -> np.ndarray | None:
    """The sum of the arrays of all processes; None on all but the first process."""
    if not distributed:
        return counts
    comm.synchronize()
    parts = comm.gather(counts, dst=0)
    return np.sum(parts, axis=0) if comm.is_main_process() else None
