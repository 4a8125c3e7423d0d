"""Check that a split on disk is complete and that its files are consistent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from .classes import CATEGORY_IDS, CLASS_NAMES, PARTS, THINGS
from .disk import finished
from .files import read_json
from .referring import GREFS


def check_split(root: str | Path, split: str, max_pages: int | None = None) -> list[str]:
    """Check a split and return messages about its faults.

    Args:
        root: folder of the book.
        split: "train", "val" or "unseen".
        max_pages: check at most this many pages; None = all.
    """
    root = Path(root)
    settings = finished(root, split)
    if settings is None:
        return [f"{root} has no finished split {split!r}"]
    instances = read_json(root / f"instances_{split}.json")
    panoptic = read_json(root / f"panoptic_{split}.json")
    if len(instances["images"]) != settings["count"]:
        return [
            f"instances_{split}.json has {len(instances['images'])} pages, not {settings['count']}"
        ]
    things = _by_image(instances["annotations"])
    parts = _by_image(read_json(root / f"parts_{split}.json")["annotations"])
    problems: list[str] = []
    rows = zip(instances["images"], panoptic["annotations"], strict=True)
    for image, record in list(rows)[:max_pages]:
        page_things = things.get(image["id"], [])
        problems += _check_page(root, split, image, record, page_things, parts.get(image["id"], []))
    return problems + list(_check_expressions(root, split, instances["annotations"]))


def _by_image(annotations: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in annotations:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    return by_image


def _check_page(
    root: Path,
    split: str,
    image: dict[str, Any],
    record: dict[str, Any],
    things: list[dict[str, Any]],
    parts: list[dict[str, Any]],
) -> list[str]:
    stem = Path(image["file_name"]).stem
    names = (f"images/{split}/{stem}.jpg",) + tuple(
        f"{folder}_{split}/{stem}.png" for folder in ("panoptic", "semantic", "parts")
    )
    arrays = [cv2.imread(str(root / name), cv2.IMREAD_UNCHANGED) for name in names]
    for name, array in zip(names, arrays, strict=True):
        if array is None:
            return [f"{root / name} is missing or unreadable"]
        if array.shape[:2] != (image["height"], image["width"]):
            return [f"{root / name} has the shape {array.shape[:2]}"]
    _, encoded, semantic, labels = arrays
    ids = encoded[..., ::-1].astype(np.int64) @ np.array([1, 256, 65536])
    problems = list(_check_segments(record, ids, semantic))
    problems += list(_check_things(things, ids))
    problems += list(_check_parts(parts, {t["id"]: t for t in things}, labels))
    return [f"{split} page {stem}: {problem}" for problem in problems]


def _check_segments(
    record: dict[str, Any], ids: NDArray[Any], semantic: NDArray[Any]
) -> Iterator[str]:
    for segment in record["segments_info"]:
        mask = ids == segment["id"]
        if mask.sum() != segment["area"]:
            yield f"segment {segment['id']} has {mask.sum()} pixels, not {segment['area']}"
        elif (semantic[mask] != segment["category_id"] - 1).any():
            name = CLASS_NAMES[segment["category_id"] - 1]
            yield f"segment {segment['id']} is {name}, but the semantic map disagrees"
    if (semantic[ids == 0] != 255).any():
        yield "the semantic map labels pixels that the panoptic map does not"


def _check_things(things: list[dict[str, Any]], ids: NDArray[Any]) -> Iterator[str]:
    for thing in things:
        mask = coco_mask.decode(thing["segmentation"]).astype(bool)
        if not np.array_equal(mask, ids == thing["id"] % 32):
            yield f"instance {thing['id']} and the panoptic map disagree"


def _check_parts(
    parts: list[dict[str, Any]], things: dict[int, dict[str, Any]], labels: NDArray[Any]
) -> Iterator[str]:
    names = {CATEGORY_IDS[thing.name]: thing.name for thing in THINGS}
    innermost = sorted(parts, key=lambda part: part["level"])
    drawn = np.zeros(labels.shape, np.uint8)
    for part in innermost:
        whole = things[part["thing_id"]]
        row = PARTS[part["category_id"] - 1]
        mask = coco_mask.decode(part["segmentation"]).astype(bool)
        drawn[mask] = part["category_id"]
        if row.whole != names[whole["category_id"]]:
            yield f"part {part['id']} is a {row.name} of a {names[whole['category_id']]}"
        if (mask & ~coco_mask.decode(whole["segmentation"]).astype(bool)).any():
            yield f"part {part['id']} extends beyond its thing {whole['id']}"
    has_parts = np.isin(labels, [n for n, row in enumerate(PARTS, 1) if row.whole is not None])
    if not np.array_equal(np.where(has_parts, labels, 0), drawn):
        yield "the parts and the label map of parts disagree"


def _check_expressions(root: Path, split: str, things: list[dict[str, Any]]) -> Iterator[str]:
    things_by_id = {thing["id"]: thing for thing in things}
    for reference in read_json(root / GREFS):
        if reference["split"] != split or reference["no_target"]:
            continue
        for target in reference["ann_id"]:
            if (
                target not in things_by_id
                or things_by_id[target]["image_id"] != reference["image_id"]
            ):
                yield f"expression {reference['ref_id']} has the target {target} of another page"
