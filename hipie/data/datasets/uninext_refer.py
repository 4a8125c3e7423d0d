"""Reading HIPIE's and UNINEXT's referring files: every "image" is one object with its expressions.

`annotations/refcoco-unc/instances_val.json` and the like are COCO files of one category "object".
An entry of `images` has `expressions` beside COCO's keys, and exactly one annotation; an image is
listed once for each of its objects, with another id each time.
"""

from __future__ import annotations

import os
from typing import Any

from hipie.data.io.gc import pause_garbage_collection
from hipie.data.io.json_file import read_json
from hipie.data.io.rle import check_segmentation
from hipie.data.io.validation import (
    INTEGER,
    NON_EMPTY_STRINGS,
    XYWH_BOX,
    DatasetError,
    check_entry,
    check_optional,
    images_by_id,
)


@pause_garbage_collection()
def load_object_expressions(
    json_file: str | os.PathLike[str], image_root: str | os.PathLike[str]
) -> list[dict[str, Any]]:
    """Read objects with their expressions.

    Args:
        json_file: the file.
        image_root: the images.

    Returns:
        records as `load_refcoco`'s, one an object: `annotations` has one entry, and all `expressions`
        have the `targets` [0]. By image id.

    Raises:
        FileNotFoundError, DatasetError: naming the file, the entry and the key that is wrong.
    """
    content = read_json(json_file, ("images", "annotations"))
    images = images_by_id(json_file, content)
    annotations = _by_image(json_file, content["annotations"], images)
    records = []
    for number, image in images.items():
        where = f"{json_file}: image {number}"
        check_entry(where, image, {"expressions": NON_EMPTY_STRINGS})
        if number not in annotations:
            raise DatasetError(f"{where} has no annotation")
        records.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": number,
                "annotations": [annotations[number]],
                "expressions": [
                    {"expression": words, "targets": [0], "ref_id": number, "sent_id": place}
                    for place, words in enumerate(image["expressions"])
                ],
            }
        )
    return records


def _by_image(
    path: str | os.PathLike[str], rows: list[Any], images: dict[int, Any]
) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for position, row in enumerate(rows):
        check_entry(f"{path}: annotation {position}", row, {"id": INTEGER, "image_id": INTEGER})
        where = f"{path}: annotation {row['id']}"
        image = images.get(row["image_id"])
        if image is None:
            raise DatasetError(f"{where} is of image {row['image_id']}, which is not listed")
        if row["image_id"] in found:
            raise DatasetError(f"{where} is the second one of image {row['image_id']}")
        check_optional(where, row, {"bbox": XYWH_BOX})
        if "segmentation" not in row:
            raise DatasetError(f'{where} has no "segmentation"')
        check_segmentation(where, row["segmentation"], image["height"], image["width"])
        kept = {key: row[key] for key in ("id", "bbox", "segmentation") if key in row}
        found[row["image_id"]] = {**kept, "category_id": 1, "iscrowd": 0}
    return found
