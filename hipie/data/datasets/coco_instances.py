"""Reader of COCO instance files that checks every entry.

Detectron2's reader trusts its files. This one is for custom files as well: errors name the file,
the entry and the key; faults that can be repaired are repaired, with a warning.
"""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

from hipie.data.io.json_file import read_json
from hipie.data.io.paths import require_image_files
from hipie.data.io.rle import check_segmentation, is_polygon, is_self_intersecting, to_rle
from hipie.data.io.validation import (
    FLAG,
    INTEGER,
    INTEGER_LIST,
    INTEGER_OR_STRING,
    LIST,
    NUMBER_LIST,
    DatasetError,
    check_entry,
    check_optional,
    images_by_id,
    shorten,
)

logger = logging.getLogger(__name__)

REQUIRED_FIELDS = {"id": INTEGER, "image_id": INTEGER_OR_STRING, "category_id": INTEGER}
OPTIONAL_FIELDS = {"iscrowd": FLAG, "bbox": NUMBER_LIST}
FEDERATED_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")
MAX_ANNOTATIONS_FOR_INTERSECTION_TEST = 50_000
MAX_IDS_IN_WARNING = 5


def load_coco_instances(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    contiguous_ids: Mapping[int, int] | None = None,
) -> list[dict[str, Any]]:
    """Read a COCO instance file as Detectron2's records.

    Dropped with a warning: annotations whose mask has no valid polygon, or whose box is empty or
    outside the image. Repaired with a warning: boxes that extend beyond the image (clipped), masks
    with some invalid polygons (those are dropped). Kept with a warning: self-intersecting polygons,
    in files of up to 50,000 annotations (they are filled by the even-odd rule).

    Args:
        json_file: COCO instances JSON.
        image_root: folder of the images.
        contiguous_ids: category id -> class index; by default in the order of the ids.

    Returns:
        Records with `file_name`, `height`, `width`, `image_id`, `annotations` (`id`, `bbox` xywh,
        `bbox_mode`, contiguous `category_id`, `iscrowd`, `segmentation`) and those of
        `federated_categories`, sorted by image id.

    Raises:
        FileNotFoundError, DatasetError: naming the file and the entry, if the JSON cannot be
            read, an image is missing, ids repeat, or a category or image is unknown.
    """
    content = read_json(json_file, ("images", "annotations", "categories"))
    images = images_by_id(json_file, content)
    require_image_files(json_file, images, image_root)
    for position, category in enumerate(content["categories"]):
        check_entry(f"{json_file}: category {position} of the list", category, {"id": INTEGER})
    contiguous_ids = contiguous_ids or contiguous_categories(content["categories"])
    category_ids = {category["id"] for category in content["categories"]}
    test_intersection = len(content["annotations"]) <= MAX_ANNOTATIONS_FOR_INTERSECTION_TEST
    problems: dict[str, list[Any]] = defaultdict(list)
    annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    annotation_ids: set[Any] = set()
    for position, annotation in enumerate(content["annotations"]):
        check_entry(f"{json_file}: annotation {position} of the list", annotation, {})
        where = f"{json_file}: annotation {shorten(annotation.get('id', annotation))}"
        check_entry(where, annotation, REQUIRED_FIELDS)
        check_optional(where, annotation, OPTIONAL_FIELDS)
        if annotation["id"] in annotation_ids:
            raise DatasetError(f"{where} occurs twice")
        annotation_ids.add(annotation["id"])
        image_id, category_id = annotation["image_id"], annotation["category_id"]
        if image_id not in images:
            raise DatasetError(f"{where} is of image {image_id}, which the file does not list")
        if category_id not in category_ids or category_id not in contiguous_ids:
            raise DatasetError(f"{where} has the unknown category {category_id}")
        checked = _check_annotation(
            where, annotation, images[image_id], problems, test_intersection
        )
        if checked is not None:
            checked["category_id"] = contiguous_ids[category_id]
            annotations[image_id].append(checked)
    _warn(json_file, problems)
    return [
        {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image_id,
            "annotations": annotations[image_id],
            **federated_categories(f"{json_file}: image {image_id}", image, contiguous_ids),
        }
        for image_id, image in images.items()
    ]


def contiguous_categories(categories: list[dict[str, Any]]) -> dict[int, int]:
    """Return category id -> 0-based class index, in the order of the ids."""
    return {number: i for i, number in enumerate(sorted(c["id"] for c in categories))}


def federated_categories(
    where: str, image: dict[str, Any], contiguous_ids: Mapping[int, int]
) -> dict[str, list[int]]:
    """Return the categories that federated data sets (LVIS, PACO) verified for an image.

    In a federated data set not every class is annotated in every image: a class without an object
    is known to be absent only if it is in `neg_category_ids`.

    Args:
        where: the file and the image, for error messages.
        image: an entry of COCO's `images`.
        contiguous_ids: category id -> class index.

    Returns:
        `neg_category_ids` (verified to be absent) and `not_exhaustive_category_ids` (objects may
        be missing) as class indices, where the entry has them.

    Raises:
        DatasetError: if a list has values that are not known categories.
    """
    check_optional(where, image, dict.fromkeys(FEDERATED_KEYS, INTEGER_LIST))
    categories = {}
    for key in FEDERATED_KEYS:
        if key in image:
            unknown = [number for number in image[key] if number not in contiguous_ids]
            if unknown:
                raise DatasetError(f'{where} has the unknown category {unknown[0]} in "{key}"')
            categories[key] = [contiguous_ids[number] for number in image[key]]
    return categories


def _check_annotation(
    where: str,
    annotation: dict[str, Any],
    image: dict[str, Any],
    problems: dict[str, list[Any]],
    test_intersection: bool,
) -> dict[str, Any] | None:
    """Return a repaired annotation; None if it cannot be used."""
    annotation_id = annotation["id"]
    checked = {
        "id": annotation_id,
        "iscrowd": annotation.get("iscrowd", 0),
        "bbox_mode": BoxMode.XYWH_ABS,
    }
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        for polygon in segmentation:
            check_entry(where, {"segmentation": polygon}, {"segmentation": LIST})
        polygons = [polygon for polygon in segmentation if is_polygon(polygon)]
        if not polygons:
            problems["has a mask without a valid polygon and is dropped"].append(annotation_id)
            return None
        if len(polygons) < len(segmentation):
            problems["has a polygon of fewer than three corners, which is dropped"].append(
                annotation_id
            )
        if test_intersection and any(map(is_self_intersecting, polygons)):
            problems["has a self-intersecting polygon, filled by the even-odd rule"].append(
                annotation_id
            )
        checked["segmentation"] = polygons
    elif segmentation:
        checked["segmentation"] = segmentation
    if "segmentation" in checked:
        check_segmentation(where, checked["segmentation"], image["height"], image["width"])
    box = annotation.get("bbox") or _segmentation_box(checked.get("segmentation"), image)
    if box is None:
        problems["has neither box nor mask and is dropped"].append(annotation_id)
        return None
    clipped = _clip_box(box, image["width"], image["height"])
    if clipped is None:
        problems["has an empty box, or one outside its image, and is dropped"].append(annotation_id)
        return None
    if max(abs(a - b) for a, b in zip(clipped, box, strict=True)) > 1:
        problems["has a box that extends beyond its image, which is clipped"].append(annotation_id)
    checked["bbox"] = clipped
    return checked


def _segmentation_box(segmentation: Any, image: dict[str, Any]) -> list[float] | None:
    """Return the xywh box of polygons, or of an RLE as pycocotools computes it."""
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        xs = [x for polygon in segmentation for x in polygon[0::2]]
        ys = [y for polygon in segmentation for y in polygon[1::2]]
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    rle = to_rle(segmentation, image["height"], image["width"])
    return [float(side) for side in mask_util.toBbox(rle)]


def _clip_box(box: list[float], width: int, height: int) -> list[float] | None:
    """Clip an xywh box to the image; None if nothing is left."""
    if len(box) != 4 or not all(math.isfinite(side) for side in box):
        return None
    left, top = max(0.0, box[0]), max(0.0, box[1])
    right, bottom = min(float(width), box[0] + box[2]), min(float(height), box[1] + box[3])
    if right <= left or bottom <= top:
        return None
    return [left, top, right - left, bottom - top]


def _warn(json_file: str | os.PathLike[str], problems: dict[str, list[Any]]) -> None:
    for problem, ids in problems.items():
        listed = ", ".join(str(number) for number in ids[:MAX_IDS_IN_WARNING])
        more = len(ids) - MAX_IDS_IN_WARNING
        others = f" (and {more} more)" if more > 0 else ""
        logger.warning("%s: annotation %s%s %s", json_file, listed, others, problem)
