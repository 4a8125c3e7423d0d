"""Reader of UNINEXT's and HIPIE's referring files: one entry of `images` per object.

`annotations/refcoco-unc/instances_val.json` and the like are COCO files with the single category
"object". Entries of `images` have `expressions` beside COCO's keys and exactly one annotation; an
image is listed once for each of its objects, each time with another id.
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
def load_uninext_refer(
    json_file: str | os.PathLike[str], image_root: str | os.PathLike[str]
) -> list[dict[str, Any]]:
    """Read objects with their referring expressions.

    Args:
        json_file: the file.
        image_root: folder of the images.

    Returns:
        Records as of `load_refcoco`, one per object: `annotations` has one entry, and all
        `expressions` have the `targets` [0]. Sorted by image id.

    Raises:
        FileNotFoundError, DatasetError: naming the file, the entry and the invalid key.
    """
    content = read_json(json_file, ("images", "annotations"))
    images = images_by_id(json_file, content)
    annotations = _annotation_by_image(json_file, content["annotations"], images)
    records = []
    for image_id, image in images.items():
        where = f"{json_file}: image {image_id}"
        check_entry(where, image, {"expressions": NON_EMPTY_STRINGS})
        if image_id not in annotations:
            raise DatasetError(f"{where} has no annotation")
        records.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image_id,
                "annotations": [annotations[image_id]],
                "expressions": [
                    {"expression": text, "targets": [0], "ref_id": image_id, "sent_id": position}
                    for position, text in enumerate(image["expressions"])
                ],
            }
        )
    return records


def _annotation_by_image(
    path: str | os.PathLike[str], entries: list[Any], images: dict[int, Any]
) -> dict[int, dict[str, Any]]:
    """Check the annotations and index them by image id."""
    annotations: dict[int, dict[str, Any]] = {}
    for position, entry in enumerate(entries):
        check_entry(f"{path}: annotation {position}", entry, {"id": INTEGER, "image_id": INTEGER})
        where = f"{path}: annotation {entry['id']}"
        image_id = entry["image_id"]
        image = images.get(image_id)
        if image is None:
            raise DatasetError(f"{where} is of image {image_id}, which is not listed")
        if image_id in annotations:
            raise DatasetError(f"{where} is the second annotation of image {image_id}")
        check_optional(where, entry, {"bbox": XYWH_BOX})
        if "segmentation" not in entry:
            raise DatasetError(f'{where} has no "segmentation"')
        check_segmentation(where, entry["segmentation"], image["height"], image["width"])
        fields = {key: entry[key] for key in ("id", "bbox", "segmentation") if key in entry}
        annotations[image_id] = {**fields, "category_id": 1, "iscrowd": 0}
    return annotations
