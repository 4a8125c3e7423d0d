"""COCO's formats of instances and of panoptic segmentation.

Format: https://cocodataset.org/#format-data. Files of `hipie segment` have `score`, `kind` and
`part_of` beside COCO's fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hipie.data.conversion.annotations import (
    KINDS,
    AnnotatedImage,
    Annotations,
    ReadOptions,
    SegmentTree,
    find_image,
    register_reader,
)
from hipie.data.image_io import read_label_map
from hipie.data.image_io import require_map_size as require_same_size
from hipie.data.io.fields import images_by_id
from hipie.data.io.json_file import read_json
from hipie.data.io.reading_rules import read_by, reading_rules
from hipie.data.io.rle import check_segmentation, parse_segmentation, to_rle
from hipie.data.io.validation import DatasetError


@register_reader("coco")
def read_coco(path: Path, options: ReadOptions) -> Annotations:
    """Read COCO instances: things, or what `kind` says."""
    content = read_json(path, ["images", "annotations", "categories"])
    names, classes = _categories(path, content)
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for position, entry in enumerate(content["annotations"]):
        if not isinstance(entry, dict) or entry.get("category_id") not in names:
            raise DatasetError(f"{path}: annotation {position} has no category of the file")
        by_image.setdefault(entry.get("image_id"), []).append(entry)

    def images() -> Iterator[AnnotatedImage]:
        for number, image in _images_by_id(path, content).items():
            size = image["height"], image["width"]
            tree = SegmentTree()
            for entry in by_image.get(number, ()):
                where = f"{path}: annotation {entry.get('id')}"
                parsed = parse_segmentation(where, entry.get("segmentation"), *size)
                if parsed is None or entry.get("iscrowd"):
                    continue
                check_segmentation(where, parsed, *size)
                label = names[entry["category_id"]]
                tree.add(
                    label,
                    _kind(entry.get("kind"), classes[label]),
                    to_rle(parsed, *size),
                    float(entry.get("score", 1.0)),
                    entry.get("id"),
                    entry.get("part_of"),
                )
            yield _image(path, image, options, tree)

    return Annotations(classes, images())


@register_reader("coco-panoptic")
def read_coco_panoptic(path: Path, options: ReadOptions) -> Annotations:
    """Read COCO panoptic annotations; the PNG files are in the folder with the name of the JSON."""
    content = read_json(path, ["images", "annotations", "categories"])
    names, classes = _categories(path, content)
    by_image = {
        entry.get("image_id"): entry for entry in content["annotations"] if isinstance(entry, dict)
    }

    def images() -> Iterator[AnnotatedImage]:
        for number, image in _images_by_id(path, content).items():
            tree = SegmentTree()
            entry = by_image.get(number)
            if entry is not None:
                file = path.with_suffix("") / str(entry.get("file_name"))
                colours = read_label_map(file)
                require_same_size(str(file), colours.shape[:2], (image["height"], image["width"]))
                if colours.ndim != 3:
                    raise DatasetError(f"{file}: this is not a colour image with segment ids")
                ids = colours.astype(np.int64) @ np.array([1, 256, 65536])
                for info in entry.get("segments_info", ()):
                    if info.get("category_id") not in names:
                        raise DatasetError(f"{path}: a segment of {file} has no category")
                    if not info.get("iscrowd"):
                        label = names[info["category_id"]]
                        score = float(info.get("score", 1.0))
                        tree.add(label, classes[label], ids == info["id"], score)
            yield _image(path, image, options, tree)

    return Annotations(classes, images())


def _categories(path: Path, content: dict[str, Any]) -> tuple[dict[int, str], dict[str, str]]:
    """Return names by id, and kinds by name."""
    names: dict[int, str] = {}
    classes: dict[str, str] = {}
    for position, entry in enumerate(content["categories"]):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(entry.get("id"), int):
            raise DatasetError(f"{path}: category {position} has no id with a name")
        names[entry["id"]] = name
        classes[name] = "thing" if entry.get("isthing", 1) else "stuff"
    return names, classes


def _images_by_id(path: Path, content: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    # `find_image` checks where the names lead.
    with read_by(replace(reading_rules(), outside_files=True)):
        return images_by_id(path, content)


def _kind(given: Any, default: str) -> str:
    return given if given in KINDS else default


def _image(
    path: Path, entry: dict[str, Any], options: ReadOptions, tree: SegmentTree
) -> AnnotatedImage:
    if entry.get("frame") is not None:
        raise DatasetError(
            f"{path}: image {entry['id']} is a frame of the video {entry['file_name']}; a training "
            "set needs files of images"
        )
    file = find_image(entry["file_name"], path.parent, options)
    number = entry["id"] if isinstance(entry["id"], int) else None
    return AnnotatedImage(file, (entry["height"], entry["width"]), tree.segments(), number)
