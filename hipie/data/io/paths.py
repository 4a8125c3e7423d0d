"""Paths of data sets, and the check that their files exist."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hipie.data.io.missing_images import missing_images_accepted
from hipie.data.io.validation import DatasetError


def datasets_root() -> Path:
    """Return the root folder of all data sets, as Detectron2 defines it.

    Returns:
        `$DETECTRON2_DATASETS`, or `datasets` in the working directory.
    """
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def missing_files(paths: Iterable[str]) -> list[str]:
    """Return the paths that are not files; each folder is listed once.

    Args:
        paths: paths of files, in any order.
    """
    names: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in names:
            names[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in names[folder]:
            missing.append(path)
    return missing


def require_image_files(
    path: str | os.PathLike[str],
    images: Mapping[Any, Mapping[str, Any]],
    image_root: str | os.PathLike[str],
) -> None:
    """Check that every image of an annotation file exists.

    Args:
        path: the annotation file, for the error message.
        images: its `images` by id.
        image_root: folder that their `file_name` is relative to.

    Raises:
        DatasetError: naming the file, the first missing image, and how many are missing.
    """
    by_path = {os.path.join(image_root, image["file_name"]): image for image in images.values()}
    missing = missing_files(by_path)
    if missing and not missing_images_accepted():
        first = by_path[missing[0]]
        more = f", nor are {len(missing) - 1} others" if len(missing) > 1 else ""
        raise DatasetError(
            f'{path}: the image "{first["file_name"]}" of image {first["id"]} is not in '
            f"{image_root}{more}"
        )
