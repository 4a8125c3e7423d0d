"""Reading part annotations: a folder of label maps, one an image, value = part index + 1."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hipie.data.io.json_file import read_json
from hipie.data.io.paths import require_image_files
from hipie.data.io.validation import DatasetError, images_by_id


def load_part_maps(
    images_json: str | os.PathLike[str],
    label_root: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    extension: str = ".png",
) -> list[dict[str, Any]]:
    """Read the images that have a part map.

    Args:
        images_json: any COCO-format JSON that lists the images and their sizes.
        label_root: the label maps, named as the images are.
        image_root: the images.
        extension: of the label maps.

    Returns:
        records with `file_name`, `height`, `width`, `image_id` and `part_seg_file_name`.

    Raises:
        FileNotFoundError, DatasetError: naming the file that is missing or wrong.
    """
    images = images_by_id(images_json, read_json(images_json, ("images",)))
    require_image_files(images_json, images, image_root)
    present = set(os.listdir(label_root)) if os.path.isdir(label_root) else set()
    records = []
    for image in images.values():
        name = Path(image["file_name"]).stem + extension
        if name not in present:
            continue
        records.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "part_seg_file_name": os.path.join(label_root, name),
            }
        )
    if not records:
        raise DatasetError(f"{label_root}: there is no label map for any image of {images_json}")
    return records
