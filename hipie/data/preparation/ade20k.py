"""Conversion of ADE20K: panoptic and instance annotations, and the full data set.

SceneParse150 has the class of a pixel (1 to 150; 0 = unlabelled). The instance challenge of 2017
has the class among the 100 things (1 to 100, in the order of the 150) in the red channel and the
object in the green channel. In the full data set's `_seg.png`, the class is
red // 10 * 256 + green.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from numpy.typing import NDArray

from hipie.box_ops import masks_to_boxes
from hipie.data.image_io import open_image, read_label_map
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.label_maps import Job, apply_lookup, write_labels

MAX_SHORTER_SIDE = 512


@dataclass(frozen=True)
class ImageAnnotations:
    """Panoptic and instance annotations of one image.

    Attributes:
        size: width and height, pixels.
        segments: `segments_info` of COCO panoptic: stuff, then things.
        objects: COCO annotations without `id` and `image_id`.
    """

    size: tuple[int, int]
    segments: list[dict[str, Any]]
    objects: list[dict[str, Any]]


def annotate(things: Sequence[int], job: Job) -> ImageAnnotations:
    """Write the panoptic map of one image, and return its segments and objects.

    Objects are pasted over stuff. As in the files of the published results, area and box of a stuff
    segment are those before objects are pasted.

    Args:
        things: the 100 things as classes 0 to 149.
        job: `sources` are the semantic and the instance map.

    Raises:
        DatasetError: naming the map with an invalid size or label.
    """
    semantic_path, instance_path = job.sources
    semantic = read_label_map(str(semantic_path)).astype(np.int64) - 1
    colours = read_label_map(str(instance_path))
    if colours.ndim != 3 or colours.shape[:2] != semantic.shape:
        raise DatasetError(f"{instance_path}: its size differs from {semantic_path}")
    if semantic.max() >= 150:
        raise DatasetError(f"{semantic_path}: the label {semantic.max() + 1} is not a class")
    ids = np.zeros(semantic.shape, dtype=np.int64)
    segments: list[dict[str, Any]] = []
    for category in np.unique(semantic):
        if category >= 0 and category not in things:
            _paste_segment(segments, ids, semantic == category, int(category))
    objects = []
    for number in np.unique(colours[..., 1]):
        if number == 0:
            continue
        mask = colours[..., 1] == number
        classes = np.unique(colours[..., 0][mask])
        if len(classes) != 1 or not 1 <= classes[0] <= len(things):
            raise DatasetError(
                f"{instance_path}: object {number} has the classes {classes.tolist()} instead of "
                f"one from 1 to {len(things)}"
            )
        category = things[int(classes[0]) - 1]
        box = _paste_segment(segments, ids, mask, category)
        rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
        objects.append(
            {
                "iscrowd": 0,
                "category_id": category,
                "bbox": box,
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                "area": int(mask.sum()),
            }
        )
    planes = [ids % 256, ids // 256 % 256, ids // 65536]
    write_labels(job.target, np.stack(planes, axis=2).astype(np.uint8))
    return ImageAnnotations((semantic.shape[1], semantic.shape[0]), segments, objects)


def _paste_segment(
    segments: list[dict[str, Any]], ids: NDArray[Any], mask: NDArray[Any], category: int
) -> list[int]:
    """Paste a segment, append it to `segments`, and return its xywh box."""
    left, top, right, bottom = masks_to_boxes(torch.from_numpy(mask)[None])[0].int().tolist()
    box = [left, top, right - left, bottom - top]
    number = len(segments) + 1
    ids[mask] = number
    area = int(mask.sum())
    segments.append(
        {"id": number, "category_id": category, "area": area, "bbox": box, "iscrowd": 0}
    )
    return box


def reduce_image(job: Job) -> None:
    """Write an image of the full data set with a shorter side of at most 512 pixels."""
    (source,) = job.sources
    with open_image(source) as image:
        pixels = np.asarray(image.convert("RGB"))
    write_labels(job.target, _resize_to_limit(pixels, cv2.INTER_LINEAR))


def reduce_classes(table: NDArray[Any], job: Job) -> None:
    """Write the label map of the full data set in the size of `reduce_image`."""
    (source,) = job.sources
    colours = read_label_map(str(source)).astype(np.int32)
    if colours.ndim != 3:
        raise DatasetError(f"{source}: this is not a colour image")
    numbers = colours[..., 0] // 10 * 256 + colours[..., 1]
    write_labels(
        job.target, apply_lookup(_resize_to_limit(numbers, cv2.INTER_NEAREST), table, source)
    )


def _resize_to_limit(pixels: NDArray[Any], interpolation: int) -> NDArray[Any]:
    height, width = pixels.shape[:2]
    if min(height, width) <= MAX_SHORTER_SIDE:
        return pixels
    if width >= height:
        size = round(width / height * MAX_SHORTER_SIDE), MAX_SHORTER_SIDE
    else:
        size = MAX_SHORTER_SIDE, round(height / width * MAX_SHORTER_SIDE)
    return cv2.resize(pixels, size, interpolation=interpolation)


def image_of(labels: Path) -> Path:
    """Return the path of the image of a `_seg.png`."""
    return labels.with_name(labels.name.replace("_seg.png", ".jpg"))
