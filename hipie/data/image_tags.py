"""Tags of images: a COCO file, a CSV file, or a folder of each class."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hipie.data.datasets.coco_instances import category_ids_of, image_tags
from hipie.data.image_io import IMAGE_SUFFIXES, read_image_size
from hipie.data.io.fields import (
    IDENTIFIER,
    TEXT,
    WHOLE_NUMBER,
    EntryFaults,
    images_by_id,
    read_field,
    require_entry,
    require_image,
    require_inside,
)
from hipie.data.io.json_file import read_json
from hipie.data.io.paths import require_image_files
from hipie.data.io.regular_file import read_file
from hipie.data.io.validation import DatasetError, shorten
from hipie.errors import InputError, UsageError, cause_of
from hipie.vocabularies.vocabulary import name_key

HEADERS = frozenset({"image", "images", "file", "file_name", "filename", "name", "path"})
"""First cells by which the first line of a CSV file is a header."""


@dataclass(frozen=True)
class TaggedImage:
    """An image and what it is known to show.

    Attributes:
        name: of its file, relative to the folder of the images.
        tags: indices of its classes.
    """

    name: str
    tags: tuple[int, ...]


@dataclass(frozen=True)
class TaggedImages:
    """Images with tags.

    Attributes:
        root: folder of the images.
        classes: names of the tags.
        images: the images.
    """

    root: str
    classes: tuple[str, ...]
    images: tuple[TaggedImage, ...]


def read_tags(source: str, image_root: str = "") -> TaggedImages:
    """Read the tags of images.

    Args:
        source: a COCO JSON, whose annotations need no more than `image_id` and `category_id`, and
            whose images may have `tags` (names of categories); a CSV file with lines
            `image,tag,tag`, where a header is recognised by "image", "file" or the like; or a
            folder with one folder of images a class.
        image_root: folder of the images; "" = that of the CSV file.

    Raises:
        UsageError: if a JSON has no `image_root`, or a folder one that is another.
        InputError: naming the file or folder that is missing, or what is wrong in it.
    """
    if os.path.isdir(source):
        if image_root and not os.path.samefile(source, image_root):
            raise UsageError(f"--images {image_root}: the images are in the folders of {source}")
        return _read_folder(source)
    if source.lower().endswith(".json"):
        if not image_root:
            raise UsageError(f"{source}: a COCO JSON needs --images, the folder of its images")
        return _read_coco(source, image_root)
    if source.lower().endswith(".csv"):
        return _read_csv(source, image_root or os.path.dirname(source) or ".")
    raise UsageError(
        f"{source} is neither a COCO JSON, nor a CSV file, nor a folder with one folder a class"
    )


def _read_coco(path: str, image_root: str) -> TaggedImages:
    content = read_json(path, ("images", "annotations", "categories"))
    faults = EntryFaults(path)
    ids = category_ids_of(path, content["categories"], faults)
    index_of = {number: index for index, number in enumerate(sorted(ids))}
    images = images_by_id(path, content, faults)
    require_image_files(path, images, image_root, faults)
    tags: dict[Any, set[int]] = {image_id: set() for image_id in images}
    for position, entry in enumerate(content["annotations"]):
        where = f"{path}: annotation {position} of the list"
        try:
            require_entry(where, entry)
            image_id = read_field(where, entry, "image_id", IDENTIFIER)
            category_id = read_field(where, entry, "category_id", WHOLE_NUMBER)
            image = require_image(where, images, image_id, faults)
            if category_id not in index_of and not faults.unreadable_categories:
                raise DatasetError(f"{where} has the unknown category {category_id}")
        except DatasetError as error:
            faults.add(error)
            continue
        if image is not None and category_id in index_of:
            tags[image_id].add(index_of[category_id])
    for image_id, image in images.items():
        try:
            own = image_tags(f"{path}: image {image_id}", image, content["categories"], index_of)
        except DatasetError as error:
            faults.add(error)
            continue
        tags[image_id].update(own.get("tags", ()))
    faults.raise_if_any()
    categories = {entry["id"]: entry for entry in content["categories"]}
    names = [
        read_field(f"{path}: category {number}", entry, "name", TEXT)
        for number, entry in sorted((int(key), entry) for key, entry in categories.items())
    ]
    tagged = [(image["file_name"], tags[image_id]) for image_id, image in images.items()]
    return _checked(path, image_root, names, tagged)


def _read_csv(path: str, image_root: str) -> TaggedImages:
    data = read_file(Path(path), "file of tags")
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: the tags cannot be read: {cause_of(error)}") from error
    names: dict[str, str] = {}
    tags: dict[str, list[str]] = {}
    faults = EntryFaults(path)
    lines: dict[str, int] = {}
    for line, row in enumerate(rows, 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (line == 1 and name_key(cells[0]) in HEADERS):
            continue
        image, *own = cells
        try:
            if not image:
                raise DatasetError(f"{path}: line {line} has tags, and no image")
            require_inside(f"{path}: line {line}", "image", image)
        except DatasetError as error:
            faults.add(error)
            continue
        lines.setdefault(image, line)
        tags.setdefault(image, [])
        for tag in filter(None, own):
            tags[image].append(names.setdefault(name_key(tag), tag))
    entries = {image: {"id": f"in line {lines[image]}", "file_name": image} for image in tags}
    require_image_files(path, entries, image_root, faults)
    faults.raise_if_any()
    order = list(names.values())
    tagged = [
        (entries[image]["file_name"], {order.index(tag) for tag in own})
        for image, own in tags.items()
    ]
    return _checked(path, image_root, order, tagged)


def _read_folder(folder: str) -> TaggedImages:
    names: list[str] = []
    tagged: list[tuple[str, set[int]]] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        files = sorted(
            name
            for name in os.listdir(entry.path)
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
        )
        if files:
            tagged += [(f"{entry.name}/{name}", {len(names)}) for name in files]
            names.append(entry.name.replace("_", " ").strip())
    if not names:
        raise InputError(f"{folder} has no folder with images; a folder of each class is needed")
    return _checked(folder, folder, names, tagged)


def _checked(
    source: str, root: str, names: Iterable[str], tagged: list[tuple[str, set[int]]]
) -> TaggedImages:
    """Check that there are tags, whose names differ, and that the images can be opened."""
    names = tuple(names)
    first: dict[str, str] = {}
    for name in names:
        if first.setdefault(name_key(name), name) is not name:
            raise InputError(f"{source}: two classes have the same name {shorten(name)}")
    if not any(tags for _, tags in tagged):
        raise InputError(f"{source}: no image has a tag")
    for name, _ in tagged:
        read_image_size(os.path.join(root, name), decode=False)
    images = tuple(TaggedImage(name, tuple(sorted(tags))) for name, tags in tagged)
    return TaggedImages(root, names, images)
