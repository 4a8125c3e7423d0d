"""Reading the JSON files of data sets, with errors that name them."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# The most pixels that Pillow opens without a warning; sides that no image format goes beyond.
MOST_PIXELS = 178_956_970
LONGEST_SIDE = 65_535


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
    except (ValueError, RecursionError) as error:  # Not JSON, not UTF-8, or nested too deeply.
        raise DatasetError(f"{path}: this is not a JSON file ({error})") from error
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DatasetError(f'{path}: there is no list "{key}" at its top')
    return content


def shown(value: Any) -> str:
    """A value for an error message, shortened."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not print numbers of more than 4,300 digits.
        return "a very long number"


def images_by_id(path: str | os.PathLike[str], content: dict[str, Any]) -> dict[int, Any]:
    """The file's `images` by id, in the order of their ids.

    Raises:
        DatasetError: if an image lacks a field or has a value that cannot be, or two have one id.
    """
    found: dict[int, Any] = {}
    for position, image in enumerate(content["images"]):
        if not isinstance(image, dict):
            raise DatasetError(f"{path}: image {position} of the list is not a dictionary")
        where = f"{path}: image {shown(image.get('id', image))}"
        for key in ("id", "file_name", "height", "width"):
            if key not in image:
                raise DatasetError(f'{where} has no "{key}"')
        if type(image["id"]) not in (int, str):
            raise DatasetError(f'{where}: its "id" must be a whole number or a text')
        if not isinstance(image["file_name"], str) or not image["file_name"]:
            raise DatasetError(f'{where}: its "file_name" must be a text')
        check_size(where, image["height"], image["width"])
        if image["id"] in found:
            raise DatasetError(f"{path}: two images have the id {image['id']}")
        found[image["id"]] = image
    return {key: found[key] for key in sorted(found, key=lambda one: (isinstance(one, str), one))}


def check_size(where: str, height: Any, width: Any) -> None:
    """Check that an image can have this size.

    Raises:
        DatasetError: naming the key.
    """
    for key, side in (("height", height), ("width", width)):
        if type(side) is not int or not 0 < side <= LONGEST_SIDE:
            raise DatasetError(
                f'{where}: its "{key}" must be a whole number from 1 to {LONGEST_SIDE}, not '
                f"{shown(side)}"
            )
    if height * width > MOST_PIXELS:
        raise DatasetError(
            f'{where}: its "height" and "width" make {height * width} pixels; at most '
            f"{MOST_PIXELS} are read"
        )


def require_images(
    path: str | os.PathLike[str], images: dict[int, Any], image_root: str | os.PathLike[str]
) -> None:
    """Check that every image of an annotation file lies under `image_root`.

    Raises:
        DatasetError: naming the file, the first image that is missing, and how many are.
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
            f'{path}: the image "{first["file_name"]}" of image {first["id"]} is not in '
            f"{image_root}{more}"
        )
