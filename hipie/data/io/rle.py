"""Masks as run lengths: checked before pycocotools, which believes what a file says, sees them.

COCO's compressed run lengths: runs of 0 and 1 in turn, column by column; from the fourth on the
difference to the last but one; each in groups of five bits, least first, bit 5 = more follow, the
last group's bit 4 = negative; as characters from "0".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from hipie.data.io.json_file import DatasetError, shown

Runs = dict[str, Any]
MOST_GROUPS = 8
FEWEST_NUMBERS = 6


def check_segmentation(where: str, segmentation: Any, height: int, width: int) -> None:
    """Check that a segmentation is polygons or run lengths that fit an image.

    Polygons may reach beyond the image, at most by its longer side.

    Args:
        where: the file and the annotation, for the error.
        segmentation: what the file holds; anything.
        height, width: of the image.

    Raises:
        DatasetError: saying what is wrong with the `segmentation`.
    """
    if isinstance(segmentation, dict):
        fault = _fault_of_runs(segmentation, height, width)
    elif isinstance(segmentation, list):
        fault = _fault_of_polygons(segmentation, max(height, width))
    else:
        fault = f"is neither polygons nor run lengths but {shown(segmentation)}"
    if fault:
        raise DatasetError(f'{where}: its "segmentation" {fault}')


def runs_of(segmentation: Any, height: int, width: int) -> Runs:
    """COCO polygons or run lengths (compressed or not) as compressed run lengths.

    Args:
        segmentation: one that `check_segmentation` passes.
        height, width: of the image.
    """
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def union_of(runs: Sequence[Runs], height: int, width: int) -> Runs:
    """The union of masks; an empty mask of this size if there is none."""
    if not runs:
        return mask_util.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
    return runs[0] if len(runs) == 1 else mask_util.merge(list(runs))


def run_counts(counts: str | bytes) -> np.ndarray | None:
    """The lengths of compressed runs, int64; None if they are no such text."""
    try:
        raw = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        return None
    groups = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if len(groups) == 0 or groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        return None
    last = np.flatnonzero(groups & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > MOST_GROUPS:
        return None
    shifts = 5 * (np.arange(len(groups)) - np.repeat(first, lengths))
    values = np.add.reduceat((groups & 31) << shifts, first)
    values -= np.where(groups[last] & 16, np.int64(1) << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _fault_of_runs(runs: Runs, height: int, width: int) -> str | None:
    size, counts = runs.get("size"), runs.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        return f'has the "size" {shown(size)}, but the image has {[height, width]}'
    if isinstance(counts, list):
        if not all(type(one) is int and one >= 0 for one in counts):
            return 'has "counts" that are not whole numbers from 0 on'
        total = sum(counts)
    elif isinstance(counts, str | bytes):
        found = run_counts(counts)
        if found is None or found.min() < 0:
            return 'has "counts" that are no run lengths'
        total = int(found.sum())
    else:
        return f'has the "counts" {shown(counts)}'
    if total != height * width:
        return f'has "counts" of {total} pixels, but the image has {height * width}'
    return None


def _fault_of_polygons(polygons: list[Any], reach: int) -> str | None:
    if not polygons:
        return "has no polygon"
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < FEWEST_NUMBERS or len(polygon) % 2:
            return f"has a polygon without three corners: {shown(polygon)}"
        try:
            finite = math.isfinite(math.fsum(polygon))
        except (TypeError, ValueError, OverflowError):
            finite = False
        if not finite:
            return f"has a polygon with something else than finite numbers: {shown(polygon)}"
        if min(polygon) < -reach or max(polygon) > 2 * reach:
            return f"has a polygon far outside its image: {shown(polygon)}"
    return None
