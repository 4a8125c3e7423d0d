"""COCO segmentations: polygons and run-length encodings (RLE), validated before pycocotools.

pycocotools reads beyond its buffers on malformed encodings, so that files are checked first.
Compressed RLE: lengths of runs of 0 and 1 in turn, column by column; from the fourth on as the
difference to the last but one; each in groups of five bits, least significant first; bit 5 says
that more groups follow, bit 4 of the last group is the sign; each group as a character from "0".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray

from hipie.data.io.validation import DatasetError, shorten

RLE = dict[str, Any]
"""COCO's RLE: `size` [height, width] and `counts`."""
MAX_GROUPS = 8
"""Five-bit groups that one run length may have."""
MIN_COORDINATES = 6
"""Coordinates of a polygon of three corners."""


def check_segmentation(where: str, segmentation: Any, height: int, width: int) -> None:
    """Check that a segmentation is polygons or an RLE that fits an image.

    Polygons may extend beyond the image by at most its longer side.

    Args:
        where: the file and the annotation, for the error message.
        segmentation: the parsed `segmentation`, of any type.
        height: height of the image, pixels.
        width: width of the image, pixels.

    Raises:
        DatasetError: naming the file, the annotation and the fault.
    """
    if isinstance(segmentation, dict):
        fault = _rle_fault(segmentation, height, width)
    elif isinstance(segmentation, list):
        fault = _polygons_fault(segmentation, max(height, width))
    else:
        fault = f"is neither polygons nor an RLE but {shorten(segmentation)}"
    if fault:
        raise DatasetError(f'{where}: its "segmentation" {fault}')


def to_rle(segmentation: Any, height: int, width: int) -> RLE:
    """Convert COCO polygons or an RLE (compressed or not) to a compressed RLE.

    Args:
        segmentation: one that `check_segmentation` accepts; several polygons are joined.
        height: height of the image, pixels.
        width: width of the image, pixels.
    """
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def merge_rles(rles: Sequence[RLE], height: int, width: int) -> RLE:
    """Return the union of masks; an empty mask of this size if there are none."""
    if not rles:
        return mask_util.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
    return rles[0] if len(rles) == 1 else mask_util.merge(list(rles))


def decode_counts(counts: str | bytes) -> NDArray[Any] | None:
    """Decode the `counts` of a compressed RLE.

    Returns:
        int64 [N], run lengths; None if the text is malformed.
    """
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
    if lengths.max() > MAX_GROUPS:
        return None
    shifts = 5 * (np.arange(len(groups)) - np.repeat(first, lengths))
    values = np.add.reduceat((groups & 31) << shifts, first)
    values -= np.where(groups[last] & 16, np.int64(1) << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def is_polygon(points: Sequence[float]) -> bool:
    """Return whether a flat list x, y, x, y, ... has at least three finite corners."""
    if (
        len(points) < MIN_COORDINATES
        or len(points) % 2
        or not {int, float}.issuperset(map(type, points))
    ):
        return False
    try:
        return math.isfinite(math.fsum(points))
    except (ValueError, OverflowError):  # Infinities of both signs; numbers beyond a float's.
        return False


def is_self_intersecting(points: Sequence[float]) -> bool:
    """Return whether two sides of a closed polygon cross properly (touching does not count).

    Args:
        points: flat x, y, x, y, ... of N corners; N^2 comparisons.
    """
    corners = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    start, end = corners, np.roll(corners, -1, axis=0)
    start_side = _orientation(start[:, None], end[:, None], start[None])
    end_side = _orientation(start[:, None], end[:, None], end[None])
    separated = start_side * end_side < 0
    return bool((separated & separated.T).any())


def _orientation(origin: NDArray[Any], end: NDArray[Any], point: NDArray[Any]) -> NDArray[Any]:
    """Return the sign of the cross product of origin->end and origin->point."""
    side, offset = end - origin, point - origin
    return np.sign(side[..., 0] * offset[..., 1] - side[..., 1] * offset[..., 0])


def _rle_fault(rle: RLE, height: int, width: int) -> str | None:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        return f'has the "size" {shorten(size)}, but the image has {[height, width]}'
    if isinstance(counts, list):
        if not all(type(count) is int and count >= 0 for count in counts):
            return 'has "counts" that are not non-negative integers'
        total = sum(counts)
    elif isinstance(counts, str | bytes):
        lengths = decode_counts(counts)
        if lengths is None or lengths.min() < 0:
            return 'has "counts" that are not a compressed RLE'
        total = int(lengths.sum())
    else:
        return f'has the "counts" {shorten(counts)}'
    if total != height * width:
        return f'has "counts" of {total} pixels, but the image has {height * width}'
    return None


def _polygons_fault(polygons: list[Any], margin: int) -> str | None:
    if not polygons:
        return "has no polygon"
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < MIN_COORDINATES or len(polygon) % 2:
            return f"has a polygon without three corners: {shorten(polygon)}"
        try:
            finite = math.isfinite(math.fsum(polygon))
        except (TypeError, ValueError, OverflowError):
            finite = False
        if not finite:
            return f"has a polygon with values that are not finite numbers: {shorten(polygon)}"
        if min(polygon) < -margin or max(polygon) > 2 * margin:
            return f"has a polygon far outside its image: {shorten(polygon)}"
    return None
