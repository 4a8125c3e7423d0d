"""Reader of COCO panoptic files: a JSON of segments and a folder of PNGs.

Kirillov et al., "Panoptic Segmentation", CVPR 2019.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hipie.data.io.json_file import read_json
from hipie.data.io.paths import require_image_files
from hipie.data.io.validation import (
    FLAG,
    INTEGER,
    INTEGER_OR_STRING,
    LIST,
    STRING,
    DatasetError,
    check_entry,
    check_optional,
    images_by_id,
)

ANNOTATION_FIELDS = {"image_id": INTEGER_OR_STRING, "file_name": STRING, "segments_info": LIST}
MAX_SEGMENT_ID = 2**24


def load_coco_panoptic(
    json_file: str | os.PathLike[str],
    panoptic_root: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    contiguous_ids: dict[int, int],
    sem_seg_root: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """Read a panoptic data set as Detectron2's records.

    Args:
        json_file: COCO panoptic JSON.
        panoptic_root: folder of the PNGs.
        image_root: folder of the images.
        contiguous_ids: category id -> position in the vocabulary, of things and stuff.
        sem_seg_root: folder of label maps of positions in the vocabulary; adds
            `sem_seg_file_name` to the records.

    Returns:
        Records with `file_name`, `height`, `width`, `image_id`, `pan_seg_file_name`,
        `segments_info` (contiguous `category_id`, `isthing`), sorted by image id.

    Raises:
        FileNotFoundError, DatasetError: naming the file and the invalid entry.
    """
    content = read_json(json_file, ("images", "annotations", "categories"))
    images = images_by_id(json_file, content)
    require_image_files(json_file, images, image_root)
    is_thing = _thing_flags(json_file, content["categories"])
    records = {}
    for position, annotation in enumerate(content["annotations"]):
        check_entry(
            f"{json_file}: annotation {position} of the list", annotation, ANNOTATION_FIELDS
        )
        image = images.get(annotation["image_id"])
        if image is None:
            raise DatasetError(
                f"{json_file}: an annotation is of image {annotation['image_id']}, which the file "
                "does not list"
            )
        if image["id"] in records:
            raise DatasetError(f"{json_file}: image {image['id']} has two annotations")
        segments = []
        for segment in annotation["segments_info"]:
            _check_segment(f"{json_file}: a segment of image {image['id']}", segment)
            category = segment["category_id"]
            if category not in contiguous_ids or category not in is_thing:
                raise DatasetError(
                    f"{json_file}: segment {segment['id']} of image {image['id']} has the unknown "
                    f"category {category}"
                )
            segments.append(
                {**segment, "category_id": contiguous_ids[category], "isthing": is_thing[category]}
            )
        record = {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "pan_seg_file_name": os.path.join(panoptic_root, annotation["file_name"]),
            "segments_info": segments,
        }
        if sem_seg_root is not None:
            stem = Path(annotation["file_name"]).stem
            record["sem_seg_file_name"] = os.path.join(sem_seg_root, f"{stem}.png")
        records[image["id"]] = record
    return [records[key] for key in images if key in records]


def _thing_flags(json_file: str | os.PathLike[str], categories: list[Any]) -> dict[int, bool]:
    """Return category id -> whether it is a thing."""
    for position, category in enumerate(categories):
        where = f"{json_file}: category {position} of the list"
        check_entry(where, category, {"id": INTEGER})
        check_optional(where, category, {"isthing": FLAG})
    return {c["id"]: bool(c.get("isthing", 1)) for c in categories}


def _check_segment(where: str, segment: Any) -> None:
    check_entry(where, segment, {"id": INTEGER, "category_id": INTEGER})
    check_optional(where, segment, {"iscrowd": FLAG})
    if not 0 <= segment["id"] < MAX_SEGMENT_ID:
        raise DatasetError(f'{where}: "id" must fit in three bytes, not {segment["id"]}')
