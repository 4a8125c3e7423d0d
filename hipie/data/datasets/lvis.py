"""Reader of LVIS v1 (Gupta et al., CVPR 2019), a federated data set in COCO's format.

For every image it lists the classes that are verified to be absent and those whose instances are
not all annotated; other classes without an instance may be present or absent.
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import Any

from detectron2.structures import BoxMode

from hipie.data.datasets.coco_instances import federated_categories
from hipie.data.io.json_file import read_json
from hipie.data.io.paths import require_image_files
from hipie.data.io.rle import check_segmentation
from hipie.data.io.validation import (
    INTEGER,
    STRING,
    XYWH_BOX,
    DatasetError,
    check_entry,
    images_by_id,
)

ANNOTATION = {"id": INTEGER, "image_id": INTEGER, "category_id": INTEGER, "bbox": XYWH_BOX}


def load_lvis(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    contiguous_ids: dict[int, int],
) -> list[dict[str, Any]]:
    """Read LVIS as Detectron2's records.

    Args:
        json_file: `lvis_v1_train.json` or `lvis_v1_val.json`. The last two parts of an
            image's `coco_url` are its path, since LVIS's splits mix COCO's folders.
        image_root: folder of `train2017` and `val2017`.
        contiguous_ids: category id -> class index.

    Returns:
        Records as of `load_coco_instances`, with `neg_category_ids` (verified to be absent) and
        `not_exhaustive_category_ids` as class indices, sorted by image id.

    Raises:
        FileNotFoundError, DatasetError: naming the file and the invalid entry.
    """
    content = read_json(json_file, ("images", "annotations"))
    content["images"] = [
        _with_file_name(f"{json_file}: image {position} of the list", image)
        for position, image in enumerate(content["images"])
    ]
    images = images_by_id(json_file, content)
    require_image_files(json_file, images, image_root)
    annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for position, annotation in enumerate(content["annotations"]):
        check_entry(f"{json_file}: annotation {position} of the list", annotation, {"id": INTEGER})
        where = f"{json_file}: annotation {annotation['id']}"
        check_entry(where, annotation, ANNOTATION)
        image = images.get(annotation["image_id"])
        if image is None:
            raise DatasetError(
                f"{where} is of image {annotation['image_id']}, which the file does not list"
            )
        segmentation = annotation.get("segmentation")
        check_segmentation(where, segmentation, image["height"], image["width"])
        annotations[annotation["image_id"]].append(
            {
                "id": annotation["id"],
                "bbox": annotation["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "segmentation": segmentation,
                "category_id": _class_index(contiguous_ids, annotation["category_id"], where),
                "iscrowd": 0,
            }
        )
    return [
        {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": number,
            "annotations": annotations[number],
            **federated_categories(f"{json_file}: image {number}", image, contiguous_ids),
        }
        for number, image in images.items()
    ]


def _with_file_name(where: str, image: Any) -> dict[str, Any]:
    check_entry(where, image, {"id": INTEGER})
    if "file_name" in image:
        return image
    check_entry(where, image, {"coco_url": STRING})
    return {**image, "file_name": "/".join(image["coco_url"].split("/")[-2:])}


def _class_index(contiguous_ids: dict[int, int], category: int, where: str) -> int:
    if category not in contiguous_ids:
        raise DatasetError(f"{where} has the unknown category {category}")
    return contiguous_ids[category]
