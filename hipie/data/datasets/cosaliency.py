"""Reading co-saliency sets: a folder of images a group, and a folder of masks beside it.

CoCA (Zhang et al., ECCV 2020), CoSal2015 (Zhang et al., CVPR 2015) and CoSOD3k (Fan et al., CVPR
2020) in one layout: `image/<group>/<name>.jpg` and `gt/<group>/<name>.png`, 0 or 255.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError

from hipie.data.io.validation import DatasetError, check_image_size

IMAGES = {".jpg", ".jpeg", ".png", ".bmp"}


def load_cosaliency(root: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read every image that has a mask.

    Args:
        root: the folder that holds `image` and `gt`.

    Returns:
        records with `file_name`, `height`, `width` (the image's), `image_id` ("group/name"),
        `group_name`, `saliency_file_name`, and `expressions`: the group's name in words. By group,
        then by name.

    Raises:
        DatasetError: if a folder or an image's mask is missing, or one cannot be opened.
    """
    root = Path(root)
    for folder in ("image", "gt"):
        if not (root / folder).is_dir():
            raise DatasetError(f'{root}: there is no folder "{folder}"')
    records = []
    for group in sorted(path for path in (root / "image").iterdir() if path.is_dir()):
        for picture in sorted(group.iterdir()):
            if picture.suffix.lower() not in IMAGES or picture.name.startswith("."):
                continue
            mask = root / "gt" / group.name / f"{picture.stem}.png"
            if not mask.is_file():
                raise DatasetError(f"{picture}: there is no mask {mask}")
            _size(mask)  # that it can be opened; it may be of another size than the image
            height, width = _size(picture)
            words = group_words(group.name)
            records.append(
                {
                    "file_name": str(picture),
                    "height": height,
                    "width": width,
                    "image_id": f"{group.name}/{picture.stem}",
                    "group_name": group.name,
                    "saliency_file_name": str(mask),
                    "annotations": [],
                    "expressions": [{"expression": words, "sent_id": 0, "targets": []}],
                }
            )
    if not records:
        raise DatasetError(f"{root}: there is no image in a folder of image/")
    return records


def group_words(name: str) -> str:
    """A folder's name as words: "alarm_clock" and "alarm-clock" are "alarm clock"."""
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def _size(path: Path) -> tuple[int, int]:
    """Height and width as a viewer shows it: EXIF's orientations from 5 on lie on their side."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(ExifTags.Base.Orientation, 1) >= 5:
                width, height = height, width
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise DatasetError(f"{path}: this image cannot be opened ({error})") from error
    check_image_size(str(path), height, width)
    return height, width
