"""Objects of annotation files in COCO's format: box, mask, area and crowd flag, checked.

Every reader of objects passes their entries through an `ObjectReader`, so that the same field means
the same in all formats.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

from hipie.data.io.fields import FLAG, finite_number, is_absent, read_optional
from hipie.data.io.partial_annotations import (
    SCRIBBLES,
    read_partial_annotations,
    scribble_box,
)
from hipie.data.io.rle import (
    Segmentation,
    check_segmentation,
    is_polygon,
    is_self_intersecting,
    parse_segmentation,
    to_rle,
)
from hipie.data.io.validation import DatasetError, shorten
from hipie.logs import get_logger

logger = get_logger(__name__)

MAX_IDS_IN_WARNING = 5
MAX_ANNOTATIONS_FOR_INTERSECTION_TEST = 50_000
MIN_BOX_IOU = 0.5
"""Stated boxes with a lower IoU with the box of the mask disagree with it by far ..."""
MAX_BOX_DIFFERENCE = 2.0
"""... if also one of their sides is farther from it than this, pixels."""
MIN_CONVENTION_IOU = 0.8
"""IoU of a box, read by another convention, with that of its mask that makes this one likely."""
CONVENTIONS = (
    "[left, top, right, bottom]",
    "[centre x, centre y, width, height]",
    "[left, top, width, height] as fractions of the image's size",
    "[left, top, right, bottom] as fractions of the image's size",
    "[centre x, centre y, width, height] as fractions of the image's size",
    "[top, left, height, width]",
    "[top, left, bottom, right]",
)
# Reasons for which an object is left out, in `left_out` of records.
NO_PIXEL = "object without a pixel"
NO_POLYGON = "mask without a valid polygon"
EMPTY_BOX = "box that is empty or outside its image"
NEITHER = "object without box and mask"
Box = list[float]


class CheckedRecords(list[dict[str, Any]]):
    """Records whose objects have passed an `ObjectReader`, and need not pass it again."""


class ObjectReader:
    """Reader of the entries of one file; it repairs what has one meaning, and counts it.

    Left out with a warning: masks without a valid polygon or without a pixel in the image, boxes
    that are empty or outside the image where there is no mask, entries with neither box nor mask.
    Repaired: boxes that are empty, drawn backwards or disagree with the mask by far are taken from
    the mask; without a mask, boxes drawn backwards are turned round; boxes are clipped to the
    image. Polygons of fewer than three corners are dropped, self-intersecting ones are filled by
    the even-odd rule. The `area` of a file is not used: it is counted from the mask.

    Attributes:
        reason: why the last object that was left out was.

    Args:
        path: the file, for messages.
        test_intersection: look for self-intersecting polygons.
        strict: a mask is needed, and an invalid one is an error; one without a pixel is kept, since
            the published scores of referring expressions count it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        test_intersection: bool = True,
        strict: bool = False,
    ) -> None:
        self.path = path
        self.test_intersection = test_intersection
        self.strict = strict
        self.reason = ""
        self.objects = 0
        self.crowds = 0
        self._problems: dict[str, list[Any]] = defaultdict(list)
        self._conventions: Counter[str] = Counter()
        self._boxes_only: Counter[str] = Counter()

    def read(
        self, where: str, name: Any, entry: dict[str, Any], height: int, width: int
    ) -> dict[str, Any] | None:
        """Return the fields of an object in Detectron2's form.

        Args:
            where: the file and the entry, for error messages.
            name: id of the entry, for warnings.
            entry: a parsed annotation.
            height: height of its image, pixels.
            width: width of its image, pixels.

        Returns:
            `bbox` (xywh), `bbox_mode`, `iscrowd` (0 or 1), `area` (pixels) and, where there is a
            mask, `segmentation`, and the fields of `read_partial_annotations`; None if the object
            is left out.

        Raises:
            DatasetError: naming the entry, the field and its value, if a field is wrong.
        """
        crowd = read_optional(where, entry, "iscrowd", FLAG, 0)
        stated = _read_box(where, entry.get("bbox"))
        partial = read_partial_annotations(where, entry, height, width)
        segmentation = parse_segmentation(where, entry.get("segmentation"), height, width)
        if self.strict:
            if segmentation is None:
                raise DatasetError(f'{where} has no "segmentation"')
            check_segmentation(where, segmentation, height, width)
        if segmentation is None:
            if stated is None and SCRIBBLES in partial:
                stated = scribble_box(partial[SCRIBBLES])
            box = self._box_without_mask(name, stated, height, width)
            area = box[2] * box[3] if box else 0.0
        else:
            segmentation = self._valid_polygons(where, name, segmentation, height, width)
            if segmentation is None:
                return None
            box, area = self._box_and_area(name, stated, segmentation, height, width)
        if box is None:
            return None
        self.objects += 1
        self.crowds += crowd
        mask = {} if segmentation is None else {"segmentation": segmentation}
        return {
            "iscrowd": crowd,
            "bbox": box,
            "bbox_mode": BoxMode.XYWH_ABS,
            "area": area,
            **mask,
            **partial,
        }

    def warn(self) -> None:
        """Log what was repaired and left out, each kind once."""
        for problem, ids in self._problems.items():
            listed = ", ".join(str(number) for number in ids[:MAX_IDS_IN_WARNING])
            more = len(ids) - MAX_IDS_IN_WARNING
            others = f" (and {more} more)" if more > 0 else ""
            logger.warning("%s: annotation %s%s %s", self.path, listed, others, problem)
        hint = self._likely_convention()
        if hint:
            logger.warning(
                "%s: the boxes are likely %s, but COCO's are [left, top, width, height]",
                self.path,
                hint,
            )
        if self.objects and self.crowds == self.objects:
            logger.warning(
                "%s: all %d annotations are crowds (iscrowd 1), from which nothing is learned; "
                "set iscrowd to 0 if they are single objects",
                self.path,
                self.objects,
            )

    def _valid_polygons(
        self, where: str, name: Any, segmentation: Segmentation, height: int, width: int
    ) -> Segmentation | None:
        """Return a mask without invalid polygons; None if nothing is left."""
        if isinstance(segmentation, dict):
            return segmentation
        polygons = [polygon for polygon in segmentation if is_polygon(polygon)]
        if not polygons:
            self._leave_out(NO_POLYGON, "has a mask without a valid polygon and is dropped", name)
            return None
        if len(polygons) < len(segmentation):
            self._note("has a polygon of fewer than three corners, which is dropped", name)
        check_segmentation(where, polygons, height, width)
        if self.test_intersection and any(map(is_self_intersecting, polygons)):
            self._note("has a self-intersecting polygon, filled by the even-odd rule", name)
        return polygons

    def _box_and_area(
        self, name: Any, stated: Box | None, segmentation: Segmentation, height: int, width: int
    ) -> tuple[Box | None, float]:
        """Return the box of a mask, as stated where that agrees, and its pixels."""
        rle = to_rle(segmentation, height, width)
        area = float(mask_util.area(rle))
        if area == 0 and self.strict:
            self._note("has a mask without a pixel in its image", name)
            return stated or [0.0, 0.0, 0.0, 0.0], area
        if area == 0:
            self._leave_out(
                NO_PIXEL, "has a mask without a pixel in its image and is dropped", name
            )
            return None, area
        if isinstance(segmentation, list):
            mask_box = _polygons_box(segmentation)
        else:
            mask_box = [float(side) for side in mask_util.toBbox(rle)]
        if stated is None or stated[2] <= 0 or stated[3] <= 0:
            return _clip_box(mask_box, width, height), area
        if _disagree(stated, mask_box):
            self._note("has a box far from its mask, whose box is used", name)
            self._conventions.update(["boxes"])
            self._conventions.update(
                convention
                for convention, box in _other_readings(stated, height, width)
                if _iou(box, mask_box) >= MIN_CONVENTION_IOU
            )
            return _clip_box(mask_box, width, height), area
        return self._clip(name, stated, height, width), area

    def _box_without_mask(
        self, name: Any, stated: Box | None, height: int, width: int
    ) -> Box | None:
        if stated is None:
            self._leave_out(NEITHER, "has neither box nor mask and is dropped", name)
            return None
        left, top, box_width, box_height = stated
        if box_width < 0 or box_height < 0:
            self._note("has a box drawn backwards, which is turned round", name)
            left, top = left + min(box_width, 0), top + min(box_height, 0)
            box_width, box_height = abs(box_width), abs(box_height)
        right, bottom = left + box_width, top + box_height
        if box_width > 0 and box_height > 0:
            corners = left < box_width <= width and top < box_height <= height
            self._boxes_only["boxes"] += 1
            self._boxes_only["beyond"] += right > width + 1 or bottom > height + 1
            self._boxes_only["corners"] += corners
            self._boxes_only["fractions"] += max(*stated, right / 2, bottom / 2) <= 1
        return self._clip(name, [left, top, box_width, box_height], height, width)

    def _clip(self, name: Any, box: Box, height: int, width: int) -> Box | None:
        clipped = _clip_box(box, width, height)
        if clipped is None:
            self._leave_out(
                EMPTY_BOX, "has an empty box, or one outside its image, and is dropped", name
            )
        elif max(abs(a - b) for a, b in zip(clipped, box, strict=True)) > 1:
            self._note("has a box that extends beyond its image, which is clipped", name)
        return clipped

    def _leave_out(self, reason: str, problem: str, name: Any) -> None:
        self.reason = reason
        self._note(problem, name)

    def _note(self, problem: str, name: Any) -> None:
        self._problems[problem].append(name)

    def _likely_convention(self) -> str | None:
        """Return the convention by which most boxes that do not fit were likely written."""
        disagreeing = self._conventions["boxes"]
        for convention in CONVENTIONS:
            if disagreeing and 2 * self._conventions[convention] > disagreeing:
                return convention
        counts = self._boxes_only
        if counts["boxes"] and counts["fractions"] == counts["boxes"]:
            return "fractions of the image's size"
        if counts["beyond"] and counts["corners"] == counts["boxes"]:
            return CONVENTIONS[0]
        return None


def _read_box(where: str, value: Any) -> Box | None:
    """Return four finite numbers; None where the field is absent."""
    if is_absent(value):
        return None
    box = [finite_number(side) for side in value] if isinstance(value, list | tuple) else []
    if len(box) != 4 or None in box:
        raise DatasetError(
            f'{where}: "bbox" must be four finite numbers [x, y, width, height], not '
            f"{shorten(value)}"
        )
    return box  # type: ignore[return-value]


def _polygons_box(polygons: Sequence[Sequence[float]]) -> Box:
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _clip_box(box: Box, width: int, height: int) -> Box | None:
    """Clip an xywh box to the image; None if nothing is left."""
    left, top = max(0.0, box[0]), max(0.0, box[1])
    right, bottom = min(float(width), box[0] + box[2]), min(float(height), box[1] + box[3])
    if right <= left or bottom <= top:
        return None
    return [left, top, right - left, bottom - top]


def _disagree(stated: Box, mask_box: Box) -> bool:
    difference = max(
        abs(stated[0] - mask_box[0]),
        abs(stated[1] - mask_box[1]),
        abs(stated[0] + stated[2] - mask_box[0] - mask_box[2]),
        abs(stated[1] + stated[3] - mask_box[1] - mask_box[3]),
    )
    return difference > MAX_BOX_DIFFERENCE and _iou(stated, mask_box) < MIN_BOX_IOU


def _iou(box: Box, other: Box) -> float:
    """Return the intersection over union of two xywh boxes."""
    overlap = 1.0
    for axis in (0, 1):
        end = min(box[axis] + box[axis + 2], other[axis] + other[axis + 2])
        overlap *= max(0.0, end - max(box[axis], other[axis]))
    union = box[2] * box[3] + other[2] * other[3] - overlap
    return overlap / union if union > 0 else 0.0


def _other_readings(box: Box, height: int, width: int) -> list[tuple[str, Box]]:
    """Return a box read by each of `CONVENTIONS`, xywh in pixels."""
    a, b, c, d = box
    scaled = [a * width, b * height, c * width, d * height]
    readings = [
        _from_corners(box),
        _from_centre(box),
        scaled,
        _from_corners(scaled),
        _from_centre(scaled),
        [b, a, d, c],
        _from_corners([b, a, d, c]),
    ]
    return list(zip(CONVENTIONS, readings, strict=True))


def _from_corners(box: Box) -> Box:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _from_centre(box: Box) -> Box:
    return [box[0] - box[2] / 2, box[1] - box[3] / 2, box[2], box[3]]
