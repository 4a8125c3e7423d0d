"""Reading COCO instances, with a check of every entry.

Detectron2's reader takes files as they are; this one is for people's own files, and says in one
expression what is wrong with them and where. What can be mended is mended, with a warning.
"""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from typing import Any

import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

from hipie.data.datasets.federated_annotations import federated_lists
from hipie.data.io.json_file import read_json
from hipie.data.io.paths import require_image_files
from hipie.data.io.rle import check_segmentation, is_polygon, is_self_intersecting
from hipie.data.io.validation import (
    FLAG,
    INTEGER,
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

REQUIRED = {"id": INTEGER, "image_id": INTEGER_OR_STRING, "category_id": INTEGER}
OPTIONAL = {"iscrowd": FLAG, "bbox": NUMBER_LIST}
MOST_CROSSING_CHECKS = 50_000
NAMED_IN_WARNING = 5


def load_coco_instances(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    contiguous: dict[int, int] | None = None,
) -> list[dict[str, Any]]:
    """Read a COCO instance file as Detectron2's records.

    Warned of and left out: annotations whose mask has no corners, or whose box lies outside the
    image or is empty. Warned of and mended: boxes that reach over the edge (clipped), masks with
    some bad polygons (those are dropped). Warned of and kept: polygons that cross themselves, in
    files of up to 50,000 annotations (they are filled by the even-odd rule).

    Args:
        json_file: COCO's instances JSON.
        image_root: the images.
        contiguous: category id -> class index; by default the order of the ids.

    Returns:
        records with `file_name`, `height`, `width`, `image_id` and `annotations` (`id`, `bbox`
        xywh, `bbox_mode`, `category_id` contiguous, `iscrowd`, `segmentation`), by image id; and
        what `federated_lists` finds.

    Raises:
        FileNotFoundError, DatasetError: naming the file and the entry, if the JSON cannot be
            read, an image is missing, ids repeat, or a category or image is unknown.
    """
    content = read_json(json_file, ("images", "annotations", "categories"))
    images = images_by_id(json_file, content)
    require_image_files(json_file, images, image_root)
    for position, category in enumerate(content["categories"]):
        check_entry(f"{json_file}: category {position} of the list", category, {"id": INTEGER})
    contiguous = contiguous or contiguous_categories(content["categories"])
    known = {category["id"] for category in content["categories"]}
    check_crossing = len(content["annotations"]) <= MOST_CROSSING_CHECKS
    problems: dict[str, list[Any]] = defaultdict(list)
    objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
    seen: set[Any] = set()
    for position, annotation in enumerate(content["annotations"]):
        check_entry(f"{json_file}: annotation {position} of the list", annotation, {})
        where = f"{json_file}: annotation {shorten(annotation.get('id', annotation))}"
        check_entry(where, annotation, REQUIRED)
        check_optional(where, annotation, OPTIONAL)
        if annotation["id"] in seen:
            raise DatasetError(f"{where} occurs twice")
        seen.add(annotation["id"])
        if annotation["image_id"] not in images:
            raise DatasetError(
                f"{where} is of image {annotation['image_id']}, which the file does not list"
            )
        if annotation["category_id"] not in known or annotation["category_id"] not in contiguous:
            raise DatasetError(f"{where} has the unknown category {annotation['category_id']}")
        image = images[annotation["image_id"]]
        kept = _checked(where, annotation, image, problems, check_crossing)
        if kept is not None:
            kept["category_id"] = contiguous[annotation["category_id"]]
            objects[annotation["image_id"]].append(kept)
    _warn(json_file, problems)
    return [
        {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": number,
            "annotations": objects[number],
            **federated_lists(f"{json_file}: image {number}", image, contiguous),
        }
        for number, image in images.items()
    ]


def contiguous_categories(categories: list[dict[str, Any]]) -> dict[int, int]:
    """Category id -> 0-based class index, in the order of the ids."""
    return {number: i for i, number in enumerate(sorted(c["id"] for c in categories))}


def _checked(
    where: str,
    annotation: dict[str, Any],
    image: dict[str, Any],
    problems: dict[str, list[Any]],
    check_crossing: bool,
) -> dict[str, Any] | None:
    """One annotation, mended; None if nothing of it can be used."""
    number = annotation["id"]
    kept = {
        "id": number,
        "iscrowd": annotation.get("iscrowd", 0),
        "bbox_mode": BoxMode.XYWH_ABS,
    }
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        for polygon in segmentation:
            check_entry(where, {"segmentation": polygon}, {"segmentation": LIST})
        polygons = [p for p in segmentation if is_polygon(p)]
        if not polygons:
            problems["has a mask without corners and is left out"].append(number)
            return None
        if len(polygons) < len(segmentation):
            problems["has a polygon of fewer than three corners, which is dropped"].append(number)
        if check_crossing and any(is_self_intersecting(p) for p in polygons):
            problems["has a polygon that crosses itself, filled by the even-odd rule"].append(
                number
            )
        kept["segmentation"] = polygons
    elif segmentation:
        kept["segmentation"] = segmentation
    if "segmentation" in kept:
        check_segmentation(where, kept["segmentation"], image["height"], image["width"])
    box = annotation.get("bbox") or _box_of(kept.get("segmentation"))
    if box is None:
        problems["has neither box nor mask and is left out"].append(number)
        return None
    clipped = _clipped(box, image["width"], image["height"])
    if clipped is None:
        problems["has an empty box, or one outside its image, and is left out"].append(number)
        return None
    if max(abs(a - b) for a, b in zip(clipped, box, strict=True)) > 1:
        problems["has a box that reaches outside its image, which is clipped"].append(number)
    kept["bbox"] = clipped
    return kept


def _box_of(segmentation: Any) -> list[float] | None:
    """The xywh box round polygons; of run lengths, the box pycocotools gives."""
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        xs = [x for polygon in segmentation for x in polygon[0::2]]
        ys = [y for polygon in segmentation for y in polygon[1::2]]
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    runs = segmentation
    if isinstance(runs["counts"], list):
        runs = mask_util.frPyObjects(runs, *runs["size"])
    return [float(side) for side in mask_util.toBbox(runs)]


def _clipped(box: list[float], width: int, height: int) -> list[float] | None:
    """An xywh box cut to the image; None if nothing is left."""
    if len(box) != 4 or not all(math.isfinite(side) for side in box):
        return None
    left, top = max(0.0, box[0]), max(0.0, box[1])
    right, bottom = min(float(width), box[0] + box[2]), min(float(height), box[1] + box[3])
    if right <= left or bottom <= top:
        return None
    return [left, top, right - left, bottom - top]


def _warn(json_file: str | os.PathLike[str], problems: dict[str, list[Any]]) -> None:
    for problem, numbers in problems.items():
        named = ", ".join(str(number) for number in numbers[:NAMED_IN_WARNING])
        more = len(numbers) - NAMED_IN_WARNING
        others = f" (and {more} more)" if more > 0 else ""
        logger.warning("%s: annotation %s%s %s", json_file, named, others, problem)
