"""Maps of one value a pixel, from segments that may overlap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipie.batch_inference.records import ImageRecord
from hipie.segmentation import Segment


@dataclass(frozen=True)
class VisibleSegment:
    """A segment in a map of ids.

    Attributes:
        number: its value in the map, from 1.
        segment: label, kind and score; the mask may be larger than what is visible.
        area: pixels that it has in the map.
        box: (x, y, width, height) of them.
    """

    number: int
    segment: Segment
    area: int
    box: tuple[int, int, int, int]


def segment_map(record: ImageRecord) -> tuple[NDArray[Any], list[VisibleSegment]]:
    """Paint the segments of an image, without their parts, in the order of their scores.

    Args:
        record: of the image.

    Returns:
        int32 [H, W], 0 where no segment is, and the segments that have a pixel.
    """
    numbers = np.zeros(record.size, np.int32)
    order = np.argsort([segment.score for segment in record.segments], kind="stable")
    for position in order.tolist():
        numbers[record.segments[position].mask] = position + 1
    visible = []
    for number, segment in enumerate(record.segments, 1):
        rows, columns = np.nonzero(numbers == number)
        if len(rows):
            left, top = int(columns.min()), int(rows.min())
            box = (left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top)
            visible.append(VisibleSegment(number, segment, len(rows), box))
    return numbers, visible
