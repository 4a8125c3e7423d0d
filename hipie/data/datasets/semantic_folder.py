"""Readers of label maps: of a folder, and of the images that a COCO file lists."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from hipie.data.image_io import ImageError, open_image
from hipie.data.io.fields import images_by_id
from hipie.data.io.json_file import read_json
from hipie.data.io.paths import require_image_files
from hipie.data.io.validation import DatasetError
from hipie.errors import MissingFileError

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def load_label_maps(
    label_root: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    label_suffix: str = ".png",
    image_suffix: str = ".jpg",
    key: str = "sem_seg_file_name",
) -> list[dict[str, Any]]:
    """Read a folder of label maps and the folder of their images, subfolders included.

    Args:
        label_root: folder of the maps `<name><label_suffix>`, PNG or TIFF, 8 or 16 bits.
        image_root: folder of the images `<name><image_suffix>`, with the same subfolders.
        label_suffix: end of the label maps' names.
        image_suffix: end of the images' names.
        key: key of the map in the records: "sem_seg_file_name", "part_seg_file_name", ...

    Returns:
        Records with `file_name`, `height`, `width` (the map's), `image_id` (the name) and `key`,
        sorted by name.

    Raises:
        FileNotFoundError: if a folder does not exist.
        DatasetError: naming the folder or file, if there is no label map, a map cannot be read, or
            its image is missing.
    """
    labels, images = Path(label_root), Path(image_root)
    for folder in (labels, images):
        if not folder.is_dir():
            raise MissingFileError(f"{folder}: there is no such folder")
    names = sorted(_names(labels, label_suffix))
    if not names:
        raise DatasetError(f"{labels}: there is no label map *{label_suffix} in it")
    image_names = set(_names(images, image_suffix))
    missing = [name for name in names if name not in image_names]
    if missing:
        more = f", nor are {len(missing) - 1} others" if len(missing) > 1 else ""
        raise DatasetError(
            f'{labels}: the image "{missing[0]}{image_suffix}" of a label map is not in '
            f"{images}{more}"
        )
    records = []
    for name in names:
        path = labels / f"{name}{label_suffix}"
        width, height = _image_size(path)
        records.append(
            {
                "file_name": str(images / f"{name}{image_suffix}"),
                "height": height,
                "width": width,
                "image_id": name,
                key: str(path),
            }
        )
    return records


def load_class_maps(
    label_root: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    key: str = "sem_seg_file_name",
    label_suffix: str = "",
    image_suffix: str = "",
) -> list[dict[str, Any]]:
    """Read a folder of label maps and the folder of their images, whatever their file formats.

    Args:
        label_root: folder of the maps.
        image_root: folder of the images, with the same subfolders.
        key: key of the map in the records.
        label_suffix: end of the maps' names, such as "_gt.png"; "" = that of most files.
        image_suffix: likewise of the images.

    Returns:
        Records as of `load_label_maps`.

    Raises:
        FileNotFoundError, DatasetError: see `load_label_maps`.
    """
    for folder in (Path(label_root), Path(image_root)):
        if not folder.is_dir():
            raise MissingFileError(f"{folder}: there is no such folder")
    return load_label_maps(
        label_root,
        image_root,
        label_suffix=label_suffix or _usual_suffix(label_root, LABEL_SUFFIXES, "label map"),
        image_suffix=image_suffix or _usual_suffix(image_root, IMAGE_SUFFIXES, "image"),
        key=key,
    )


def _usual_suffix(folder: str | os.PathLike[str], suffixes: tuple[str, ...], what: str) -> str:
    """Return the suffix of most files of a folder that have one of some suffixes."""
    counts = Counter(
        suffix
        for _, _, names in os.walk(folder)
        for name in names
        if (suffix := os.path.splitext(name)[1]).lower() in suffixes and not name.startswith(".")
    )
    if not counts:
        raise DatasetError(f"{folder}: there is no {what} ({', '.join(suffixes)}) in it")
    return counts.most_common(1)[0][0]


def load_part_maps(
    images_json: str | os.PathLike[str],
    label_root: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    label_suffix: str = ".png",
) -> list[dict[str, Any]]:
    """Read the part label maps of the images that a COCO file lists.

    Args:
        images_json: any COCO JSON with `images`.
        label_root: folder of the label maps, named after the images; value = class index + 1.
        image_root: folder of the images.
        label_suffix: suffix of the label maps.

    Returns:
        Records with `file_name`, `height`, `width`, `image_id` and `part_seg_file_name` of the
        images that have a map.

    Raises:
        FileNotFoundError, DatasetError: naming the file that is missing or invalid.
    """
    images = images_by_id(images_json, read_json(images_json, ("images",)))
    require_image_files(images_json, images, image_root)
    label_names = set(os.listdir(label_root)) if os.path.isdir(label_root) else set()
    records = []
    for image in images.values():
        name = Path(image["file_name"]).stem + label_suffix
        if name not in label_names:
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


def _names(root: Path, suffix: str) -> list[str]:
    """Return the paths of all files with a suffix, relative to a folder, without the suffix."""
    return [
        (Path(folder).relative_to(root) / name.removesuffix(suffix)).as_posix()
        for folder, _, names in os.walk(root)
        for name in names
        if name.endswith(suffix) and not name.startswith(".")
    ]


def _image_size(path: Path) -> tuple[int, int]:
    """Read width and height from the header of an image file."""
    try:
        with open_image(path, "label map") as image:
            return image.size
    except ImageError as error:
        raise DatasetError(str(error)) from error
