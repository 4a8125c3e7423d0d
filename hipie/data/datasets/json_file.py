"""Reading the JSON files of data sets, with errors that name them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class DatasetError(ValueError):
    """An annotation file that cannot be used; the message names the file and the entry."""


def read_json(path: str | os.PathLike[str], keys: Iterable[str] = ()) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        keys: lists that the file must have at its top.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it is not JSON, or lacks a key.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such annotation file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: this is not a JSON file ({error})") from error
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DatasetError(f'{path}: there is no list "{key}" at its top')
    return content


def images_by_id(path: str | os.PathLike[str], content: dict[str, Any]) -> dict[int, Any]:
    """The file's `images` by id, in the order of their ids.

    Raises:
        DatasetError: if an image lacks a field, or two have one id.
    """
    found: dict[int, Any] = {}
    for image in content["images"]:
        for key in ("id", "file_name", "height", "width"):
            if key not in image:
                raise DatasetError(f'{path}: image {image.get("id", image)} has no "{key}"')
        if image["id"] in found:
            raise DatasetError(f"{path}: two images have the id {image['id']}")
        found[image["id"]] = image
    return {key: found[key] for key in sorted(found)}


def require_images(
    path: str | os.PathLike[str], images: dict[int, Any], image_root: str | os.PathLike[str]
) -> None:
    """Check that every picture of an annotation file lies under `image_root`.

    Raises:
        DatasetError: naming the file, the first picture that is missing, and how many are.
    """
    listed: dict[str, set[str]] = {}
    missing = []
    for image in images.values():
        folder, name = os.path.split(os.path.join(image_root, image["file_name"]))
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listed[folder]:
            missing.append(image)
    if missing:
        first = missing[0]
        more = f", nor are {len(missing) - 1} others" if len(missing) > 1 else ""
        raise DatasetError(
            f'{path}: the picture "{first["file_name"]}" of image {first["id"]} is not in '
            f"{image_root}{more}"
        )
