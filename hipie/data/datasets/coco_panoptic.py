"""Reading COCO panoptic: a JSON of segments and a folder of PNGs (Kirillov et al., CVPR 2019)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hipie.data.datasets.json_file import DatasetError, images_by_id, read_json, require_images


def load_coco_panoptic(
    json_file: str | os.PathLike[str],
    panoptic_root: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    contiguous: dict[int, int],
    sem_seg_root: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """Read a panoptic data set as Detectron2's records.

    Args:
        json_file: COCO's panoptic JSON.
        panoptic_root: the PNGs.
        image_root: the pictures.
        contiguous: category id -> position in the vocabulary, things and stuff together.
        sem_seg_root: label maps of the vocabulary's positions; adds `sem_seg_file_name`.

    Returns:
        records with `file_name`, `height`, `width`, `image_id`, `pan_seg_file_name`,
        `segments_info` (contiguous `category_id`, `isthing`), by image id.

    Raises:
        FileNotFoundError, DatasetError: naming the file and the entry that is wrong.
    """
    content = read_json(json_file, ("images", "annotations", "categories"))
    images = images_by_id(json_file, content)
    require_images(json_file, images, image_root)
    things = {c["id"]: bool(c.get("isthing", 1)) for c in content["categories"]}
    records = {}
    for annotation in content["annotations"]:
        image = images.get(annotation["image_id"])
        if image is None:
            raise DatasetError(
                f"{json_file}: an annotation is of image {annotation['image_id']}, which the file "
                "does not list"
            )
        segments = []
        for segment in annotation["segments_info"]:
            category = segment["category_id"]
            if category not in contiguous or category not in things:
                raise DatasetError(
                    f"{json_file}: segment {segment['id']} of image {image['id']} has the unknown "
                    f"category {category}"
                )
            segments.append(
                {**segment, "category_id": contiguous[category], "isthing": things[category]}
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
