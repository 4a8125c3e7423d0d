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

from hipie.data.io.fields import finite_number, is_absent, whole_number
from hipie.data.io.validation import DatasetError, shorten

RLE = dict[str, Any]
"""COCO's RLE: `size` [height, width] and `counts`."""
MAX_GROUPS = 8
"""Five-bit groups that one run length may have."""
MIN_COORDINATES = 6
"""Coordinates of a polygon of three corners."""
SIDES_PER_BLOCK = 256
"""Consecutive sides of a polygon that are compared with others at a time."""

Segmentation = list[list[float]] | RLE
"""Polygons, each a flat list x, y, x, y, ..., or an RLE."""


def parse_segmentation(where: str, value: Any, height: int, width: int) -> Segmentation | None:
    """Convert the `segmentation` of a file to polygons or one RLE.

    Polygons may be flat lists or lists of points, a single one need not be in a list; numbers may
    be texts. An RLE may have floats as `counts`, and several are joined. Polygons are not checked
    for their number of corners, RLEs are checked completely.

    Args:
        where: the file and the annotation, for error messages.
        value: the parsed `segmentation`, of any type.
        height: height of the image, pixels.
        width: width of the image, pixels.

    Returns:
        Polygons or an RLE that `to_rle` accepts; None where the field is absent.

    Raises:
        DatasetError: naming the file, the annotation and the fault.
    """
    if is_absent(value):
        return None
    if isinstance(value, dict):
        return _parse_rle(where, value, height, width)
    if not isinstance(value, list | tuple):
        raise DatasetError(
            f'{where}: its "segmentation" is neither polygons nor an RLE but {shorten(value)}'
        )
    if all(isinstance(element, dict) for element in value):
        parsed = [_parse_rle(where, element, height, width) for element in value]
        rles = [to_rle(rle, height, width) for rle in parsed if rle is not None]
        return as_text(merge_rles(rles, height, width)) if rles else None
    if not any(isinstance(element, list | tuple | dict) for element in value):
        return [_parse_polygon(where, value)]
    if len(value) > 2 and all(_is_point(element) for element in value):
        return [_parse_polygon(where, value)]
    return [_parse_polygon(where, polygon) for polygon in value]


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


def as_text(rle: RLE) -> RLE:
    """Return a compressed RLE whose counts are a string, as in files."""
    counts = rle["counts"]
    return {
        "size": list(rle["size"]),
        "counts": counts.decode() if type(counts) is bytes else counts,
    }


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

    Sides are compared by blocks of consecutive ones whose bounding boxes overlap, so that memory
    does not grow with the square of their number.

    Args:
        points: flat x, y, x, y, ... of N corners.
    """
    start = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    end = np.roll(start, -1, axis=0)
    low, high = np.minimum(start, end), np.maximum(start, end)
    borders = np.arange(0, len(start), SIDES_PER_BLOCK)
    block_low = np.minimum.reduceat(low, borders)
    block_high = np.maximum.reduceat(high, borders)
    for block, first in enumerate(borders):
        own = slice(first, first + SIDES_PER_BLOCK)
        near = (block_low <= block_high[block]).all(1) & (block_high >= block_low[block]).all(1)
        for other in np.flatnonzero(near[block:]) + block:
            others = slice(borders[other], borders[other] + SIDES_PER_BLOCK)
            if _sides_cross(start[own], end[own], start[others], end[others]):
                return True
    return False


def _sides_cross(
    start: NDArray[Any], end: NDArray[Any], other_start: NDArray[Any], other_end: NDArray[Any]
) -> bool:
    """Return whether a side of N crosses properly one of M others."""
    apart = _orientation(start[:, None], end[:, None], other_start[None])
    apart *= _orientation(start[:, None], end[:, None], other_end[None])
    if not (apart < 0).any():
        return False
    other_apart = _orientation(other_start[None], other_end[None], start[:, None])
    other_apart *= _orientation(other_start[None], other_end[None], end[:, None])
    return bool(((apart < 0) & (other_apart < 0)).any())


def _orientation(origin: NDArray[Any], end: NDArray[Any], point: NDArray[Any]) -> NDArray[Any]:
    """Return the sign of the cross product of origin->end and origin->point."""
    side, offset = end - origin, point - origin
    return np.sign(side[..., 0] * offset[..., 1] - side[..., 1] * offset[..., 0])


def _parse_rle(where: str, value: dict[str, Any], height: int, width: int) -> RLE | None:
    """Return an RLE with integers; None if it has no `counts`."""
    counts, size = value.get("counts"), value.get("size")
    if is_absent(counts) and (is_absent(size) or "counts" in value):
        return None
    if isinstance(counts, list | tuple):
        parsed = [whole_number(count) for count in counts]
        counts = counts if None in parsed else parsed
    if isinstance(size, list | tuple):
        sides = [whole_number(side) for side in size]
        size = size if None in sides else sides
    rle = {"size": [height, width] if is_absent(size) else size, "counts": counts}
    fault = _rle_fault(rle, height, width)
    if fault:
        raise DatasetError(f'{where}: its "segmentation" {fault}')
    return as_text(rle)


def _is_point(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and not any(map(_is_list, value))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | dict)


def _parse_polygon(where: str, value: Any) -> list[float]:
    """Return a polygon as a flat list of numbers, which may be NaN; [] for a placeholder."""
    if isinstance(value, list | tuple) and {int, float}.issuperset(map(type, value)):
        return value if isinstance(value, list) else list(value)
    if is_absent(value):
        return []
    if not isinstance(value, list | tuple):
        raise DatasetError(f'{where}: its "segmentation" has the polygon {shorten(value)}')
    if all(map(_is_point, value)):
        value = [coordinate for point in value for coordinate in point]
    return [_coordinate(where, coordinate) for coordinate in value]


def _coordinate(where: str, value: Any) -> float:
    if type(value) in (int, float):
        number: float = value
        return number
    if is_absent(value) and not _is_list(value):
        return math.nan
    parsed = finite_number(value)
    if parsed is None:
        raise DatasetError(
            f'{where}: its "segmentation" has a coordinate that is not a number: {shorten(value)}'
        )
    return parsed


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
