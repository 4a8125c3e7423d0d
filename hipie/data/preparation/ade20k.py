"""ADE20K's files of instances and of panoptic segments, from its label maps; and the full data set.

SceneParse150 gives the class of a pixel (1 to 150; 0 = none). The instance challenge of 2017 gives
in red the class among the 100 things (1 to 100, in the order of the 150) and in green the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from hipie.data.image_io import read_label_map
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.label_maps import Job, looked_up, write_labels

LONGEST_SHORTER_SIDE = 512


@dataclass(frozen=True)
class Annotated:
    """What is known of one image.

    Attributes:
        size: width and height.
        segments: COCO panoptic's `segments_info`: stuff, then things.
        objects: COCO annotations without `id` and `image_id`.
    """

    size: tuple[int, int]
    segments: list[dict[str, Any]]
    objects: list[dict[str, Any]]


def annotate(things: Sequence[int], job: Job) -> Annotated:
    """Write the panoptic map of one image, and return its segments and objects.

    Objects lie over stuff. As in the files behind the published numbers, the area and the box of
    a stretch of stuff are those it has before objects cover it.

    Args:
        things: the 100 things as classes 0 to 149.
        job: `sources` are the semantic and the instance map.

    Raises:
        DatasetError: naming the map whose size or numbers are wrong.
    """
    semantic_path, instance_path = job.sources
    semantic = read_label_map(str(semantic_path)).astype(np.int64) - 1
    colours = read_label_map(str(instance_path))
    if colours.ndim != 3 or colours.shape[:2] != semantic.shape:
        raise DatasetError(f"{instance_path}: its size is not that of {semantic_path}")
    if semantic.max() >= 150:
        raise DatasetError(f"{semantic_path}: the number {semantic.max() + 1} is of no class")
    ids = np.zeros(semantic.shape, dtype=np.int64)
    segments: list[dict[str, Any]] = []
    for category in np.unique(semantic):
        if category >= 0 and category not in things:
            _add(segments, ids, semantic == category, int(category))
    objects = []
    for number in np.unique(colours[..., 1]):
        if number == 0:
            continue
        mask = colours[..., 1] == number
        kinds = np.unique(colours[..., 0][mask])
        if len(kinds) != 1 or not 1 <= kinds[0] <= len(things):
            raise DatasetError(
                f"{instance_path}: object {number} is of the classes {kinds.tolist()}, "
                f"and should be of one from 1 to {len(things)}"
            )
        category = things[int(kinds[0]) - 1]
        box = _add(segments, ids, mask, category)
        runs = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
        objects.append(
            {
                "iscrowd": 0,
                "category_id": category,
                "bbox": box,
                "segmentation": {"size": runs["size"], "counts": runs["counts"].decode("ascii")},
                "area": int(mask.sum()),
            }
        )
    planes = [ids % 256, ids // 256 % 256, ids // 65536]
    write_labels(job.target, np.stack(planes, axis=2).astype(np.uint8))
    return Annotated((semantic.shape[1], semantic.shape[0]), segments, objects)


def _add(
    segments: list[dict[str, Any]], ids: np.ndarray, mask: np.ndarray, category: int
) -> list[int]:
    """Paste a segment, note it, and return its box."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    box = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
    number = len(segments) + 1
    ids[mask] = number
    area = int(mask.sum())
    segments.append(
        {"id": number, "category_id": category, "area": area, "bbox": box, "iscrowd": 0}
    )
    return box


def reduce_image(job: Job) -> None:
    """Write an image of the full data set, its shorter side at most 512."""
    (source,) = job.sources
    with Image.open(source) as image:
        pixels = np.asarray(image.convert("RGB"))
    write_labels(job.target, _reduced(pixels, cv2.INTER_LINEAR))


def reduce_classes(table: np.ndarray, job: Job) -> None:
    """Write the classes of the full data set, in the size of `reduce_picture`.

    In `_seg.png`, the class is red // 10 * 256 + green.
    """
    (source,) = job.sources
    colours = read_label_map(str(source)).astype(np.int32)
    if colours.ndim != 3:
        raise DatasetError(f"{source}: this should be a colour image")
    numbers = colours[..., 0] // 10 * 256 + colours[..., 1]
    write_labels(job.target, looked_up(_reduced(numbers, cv2.INTER_NEAREST), table, source))


def _reduced(pixels: np.ndarray, interpolation: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    if min(height, width) <= LONGEST_SHORTER_SIDE:
        return pixels
    if width >= height:
        size = round(width / height * LONGEST_SHORTER_SIDE), LONGEST_SHORTER_SIDE
    else:
        size = LONGEST_SHORTER_SIDE, round(height / width * LONGEST_SHORTER_SIDE)
    return cv2.resize(pixels, size, interpolation=interpolation)


def image_of(labels: Path) -> Path:
    """The image beside a `_seg.png`."""
    return labels.with_name(labels.name.replace("_seg.png", ".jpg"))
