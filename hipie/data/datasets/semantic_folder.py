"""Reading a folder of label maps beside a folder of images, without any list of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from PIL import Image

from hipie.data.image_io import PILLOW_ERRORS
from hipie.data.io.validation import DatasetError


def load_label_maps(
    label_root: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    label_ending: str = ".png",
    image_ending: str = ".jpg",
    key: str = "sem_seg_file_name",
) -> list[dict[str, Any]]:
    """The images that have a label map; folders within are read too.

    Args:
        label_root: maps `<name><label_ending>`, PNG or TIFF, 8 or 16 bits.
        image_root: images `<name><image_ending>`, in folders as the maps are.
        label_ending, image_ending: all that differs in the names.
        key: what the maps are: "sem_seg_file_name" or "part_seg_file_name".

    Returns:
        records with `file_name`, `height`, `width` (the map's), `image_id` (the name) and `key`, by
        name.

    Raises:
        FileNotFoundError: if there is no such folder.
        DatasetError: naming the folder or file, if it has no label map, a map cannot be read, or
            has no image.
    """
    labels, images = Path(label_root), Path(image_root)
    for folder in (labels, images):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such folder")
    names = sorted(_names(labels, label_ending))
    if not names:
        raise DatasetError(f"{labels}: there is no label map *{label_ending} in it")
    present = set(_names(images, image_ending))
    missing = [name for name in names if name not in present]
    if missing:
        more = f", nor are {len(missing) - 1} others" if len(missing) > 1 else ""
        raise DatasetError(
            f'{labels}: the image "{missing[0]}{image_ending}" of a label map is not in '
            f"{images}{more}"
        )
    records = []
    for name in names:
        path = labels / f"{name}{label_ending}"
        width, height = _size(path)
        records.append(
            {
                "file_name": str(images / f"{name}{image_ending}"),
                "height": height,
                "width": width,
                "image_id": name,
                key: str(path),
            }
        )
    return records


def _names(root: Path, ending: str) -> list[str]:
    """Paths below a folder of all files with an ending, without it, with forward slashes."""
    return [
        (Path(folder).relative_to(root) / name.removesuffix(ending)).as_posix()
        for folder, _, names in os.walk(root)
        for name in names
        if name.endswith(ending) and not name.startswith(".")
    ]


def _size(path: Path) -> tuple[int, int]:
    """Width and height, from the head of the file."""
    try:
        with Image.open(path) as image:
            return image.size
    except (*PILLOW_ERRORS, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path}: this label map cannot be read ({error})") from error
