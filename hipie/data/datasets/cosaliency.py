"""Reader of co-saliency data sets: one folder of images and one of masks per group.

CoCA (Zhang et al., ECCV 2020), CoSal2015 (Zhang et al., CVPR 2015) and CoSOD3k (Fan et al., CVPR
2020) have one layout: `image/<group>/<name>.jpg` and `gt/<group>/<name>.png` with
the values 0 and 255.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hipie.data.image_io import ImageError, read_image_size
from hipie.data.io.validation import DatasetError, check_image_size

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}


def load_cosaliency(root: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the images of all groups and their masks.

    Args:
        root: folder with the subfolders `image` and `gt`.

    Returns:
        Records with `file_name`, `height`, `width` (the image's), `image_id` ("group/name"),
        `group_name`, `saliency_file_name`, and one entry in `expressions`, the group's name as
        text. Sorted by group and name.

    Raises:
        DatasetError: if a folder or an image's mask is missing, or a file cannot be opened.
    """
    root = Path(root)
    for folder in ("image", "gt"):
        if not (root / folder).is_dir():
            raise DatasetError(f'{root}: there is no folder "{folder}"')
    records = []
    for group in sorted(folder for folder in (root / "image").iterdir() if folder.is_dir()):
        for path in sorted(group.iterdir()):
            if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
                continue
            mask = root / "gt" / group.name / f"{path.stem}.png"
            if not mask.is_file():
                raise DatasetError(f"{path}: there is no mask {mask}")
            _image_size(mask)  # Only checks that it can be opened; its size may differ.
            height, width = _image_size(path)
            text = group_text(group.name)
            records.append(
                {
                    "file_name": str(path),
                    "height": height,
                    "width": width,
                    "image_id": f"{group.name}/{path.stem}",
                    "group_name": group.name,
                    "saliency_file_name": str(mask),
                    "annotations": [],
                    "expressions": [{"expression": text, "sent_id": 0, "targets": []}],
                }
            )
    if not records:
        raise DatasetError(f"{root}: there is no image in a folder of image/")
    return records


def group_text(name: str) -> str:
    """Return a group's folder name as text: "alarm_clock" and "alarm-clock" -> "alarm clock"."""
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def _image_size(path: Path) -> tuple[int, int]:
    """Read height and width after EXIF orientation."""
    try:
        height, width = read_image_size(path)
    except ImageError as error:
        raise DatasetError(str(error)) from error
    check_image_size(str(path), height, width)
    return height, width
