"""Reader of UNINEXT's and HIPIE's referring files: one entry of `images` per object.

`annotations/refcoco-unc/instances_val.json` and the like are COCO files with the single category
"object". Entries of `images` have `expressions` beside COCO's keys and exactly one annotation; an
image is listed once for each of its objects, each time with another id.
"""

from __future__ import annotations

import os
from typing import Any

from hipie.data.datasets.object_reader import ObjectReader
from hipie.data.io.fields import (
    IDENTIFIER,
    WHOLE_NUMBER,
    EntryFaults,
    identifier,
    images_by_id,
    read_field,
    require_entry,
    require_image,
)
from hipie.data.io.gc import pause_garbage_collection
from hipie.data.io.json_file import read_json
from hipie.data.io.paths import missing_images
from hipie.data.io.validation import NON_EMPTY_STRINGS, DatasetError, check_entry


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
    faults = EntryFaults(json_file)
    images = images_by_id(json_file, content, faults)
    missing_images(images.values(), image_root)  # corrects the spelling of names
    annotations, refused = _annotation_by_image(json_file, content["annotations"], images, faults)
    records = []
    for image_id, image in images.items():
        where = f"{json_file}: image {image_id}"
        try:
            check_entry(where, image, {"expressions": NON_EMPTY_STRINGS})
            if image_id not in annotations and image_id not in refused:
                raise DatasetError(f"{where} has no annotation")
        except DatasetError as error:
            faults.add(error)
            continue
        if image_id in refused:
            continue
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
    faults.raise_if_any()
    return records


def _annotation_by_image(
    path: str | os.PathLike[str],
    entries: list[Any],
    images: dict[int | str, dict[str, Any]],
    faults: EntryFaults,
) -> tuple[dict[int | str, dict[str, Any]], set[int | str]]:
    """Check the annotations.

    Returns:
        The annotations by image id, and the ids of images whose annotation is wrong.
    """
    objects = ObjectReader(path, test_intersection=False, strict=True)
    annotations: dict[int | str, dict[str, Any]] = {}
    refused: set[int | str] = set()
    for position, entry in enumerate(entries):
        try:
            where = f"{path}: annotation {position}"
            number = read_field(where, require_entry(where, entry), "id", WHOLE_NUMBER)
            image_id = read_field(where, entry, "image_id", IDENTIFIER)
            where = f"{path}: annotation {number}"
            image = require_image(where, images, image_id, faults)
            if image is None:
                continue
            if image_id in annotations:
                raise DatasetError(f"{where} is the second annotation of image {image_id}")
            checked = objects.read(where, number, entry, image["height"], image["width"])
            if checked is not None:
                annotations[image_id] = {"id": number, **checked, "category_id": 1, "iscrowd": 0}
        except DatasetError as error:
            faults.add(error)
            image_id = identifier(entry.get("image_id")) if isinstance(entry, dict) else None
            refused.update(images if image_id is None else [image_id])
    objects.warn()
    return annotations, refused
