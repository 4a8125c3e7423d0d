"""The objects of an image, from the annotation formats, as masks after a transform.

Formats: COCO panoptic PNG (id = R + 256 G + 256^2 B), COCO polygons and run lengths, label maps of
classes, and of parts (class index + 1, 0 = ignore).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances
from PIL import Image
from scipy import ndimage

from hipie.data.image_io import DAMAGED

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)


def read_labels(path: str) -> np.ndarray:
    """A label map (PNG, TIFF) as it is stored: uint8 [H, W, 3] for colour, else integers [H, W].

    Raises:
        ValueError: if the file is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return np.array(image)
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: this label map cannot be read ({error})") from error


def panoptic_objects(
    colours: np.ndarray, segments: Iterable[Mapping[str, Any]], transform: T.Transform
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of a COCO panoptic map.

    Args:
        colours: uint8 [H, W, 3], the PNG.
        segments: `segments_info` with contiguous `category_id`; crowds are left out.
        transform: applied to the map before masks are cut from it.

    Returns:
        (bool [N, h, w], classes int64 [N]).
    """
    kept = [s for s in segments if not s.get("iscrowd", 0)]
    small = transform.apply_segmentation(colours).astype(np.int32)
    ids = small[:, :, 0] + 256 * small[:, :, 1] + 65536 * small[:, :, 2]
    wanted = np.array([s["id"] for s in kept], dtype=np.int32)
    classes = np.array([s["category_id"] for s in kept], dtype=np.int64)
    return ids[None] == wanted[:, None, None], classes


def part_objects(
    labels: np.ndarray, transform: T.Transform, min_area: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every connected piece (8 neighbours) of a part map, as one object.

    Args:
        labels: integers [H, W], class index + 1, 0 = ignore.
        transform: applied to the map first.
        min_area: smaller pieces, in pixels of the transformed map, are left out.

    Returns:
        (bool [N, h, w], classes int64 [N]), by class, then from the top.
    """
    small = _transformed_labels(labels, transform)
    masks: list[np.ndarray] = []
    classes: list[int] = []
    for index, window in enumerate(ndimage.find_objects(small)):
        if window is None:
            continue
        pieces, _ = ndimage.label(small[window] == index + 1, structure=EIGHT_NEIGHBOURS)
        areas = np.bincount(pieces.ravel())
        for piece in range(1, len(areas)):
            if areas[piece] >= min_area:
                mask = np.zeros(small.shape, dtype=bool)
                mask[window] = pieces == piece
                masks.append(mask)
                classes.append(index)
    stacked = np.stack(masks) if masks else np.zeros((0, *small.shape), dtype=bool)
    return stacked, np.array(classes, dtype=np.int64)


def semantic_objects(
    labels: np.ndarray, transform: T.Transform, ignored: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every class of a semantic map, as one object.

    Args:
        labels: integers [H, W], class indices.
        transform: applied to the map first.
        ignored: the value without a class.

    Returns:
        (bool [N, h, w], classes int64 [N]), by class.
    """
    small = _transformed_labels(labels, transform)
    shown = np.unique(small)
    classes = shown[shown != ignored].astype(np.int64)
    return small[None] == classes[:, None, None], classes


def _transformed_labels(labels: np.ndarray, transform: T.Transform) -> np.ndarray:
    """A label map through a transform, by nearest neighbour, whatever its integer type.

    Detectron2 resizes 8-bit maps only; wider ones go through as two planes of bytes.
    """
    if labels.dtype == np.uint8:
        return transform.apply_segmentation(labels).astype(np.int32)
    if labels.max(initial=0) > 65535 or labels.min(initial=0) < 0:
        raise ValueError("a label map has values outside 0..65535")
    low = np.ascontiguousarray((labels % 256).astype(np.uint8))
    high = np.ascontiguousarray((labels // 256).astype(np.uint8))
    return transform.apply_segmentation(low).astype(np.int32) + 256 * (
        transform.apply_segmentation(high).astype(np.int32)
    )


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """COCO polygons or run lengths (compressed or not) as a mask, polygons joined.

    Returns:
        uint8 [height, width] of 0 and 1.
    """
    if isinstance(segmentation, list):
        runs: Any = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        runs = mask_util.frPyObjects(segmentation, height, width)
    else:
        runs = segmentation
    return mask_util.decode(runs)


def annotated_objects(
    annotations: Sequence[Mapping[str, Any]], height: int, width: int, transform: T.Transform
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of COCO annotations; crowds are left out, and a box without a mask fills its box.

    Returns:
        (bool [N, h, w], classes int64 [N]).
    """
    masks = []
    classes = []
    for annotation in annotations:
        if annotation.get("iscrowd", 0):
            continue
        if annotation.get("segmentation"):
            mask = decode_mask(annotation["segmentation"], height, width)
        else:
            mask = _filled_box(annotation["bbox"], height, width)
        masks.append(transform.apply_segmentation(mask).astype(bool))
        classes.append(annotation["category_id"])
    if not masks:
        shape = transform.apply_segmentation(np.zeros((height, width), np.uint8)).shape
        return np.zeros((0, *shape), dtype=bool), np.zeros(0, dtype=np.int64)
    return np.stack(masks), np.array(classes, dtype=np.int64)


def _filled_box(box: Sequence[float], height: int, width: int) -> np.ndarray:
    left, top, box_width, box_height = box
    mask = np.zeros((height, width), dtype=np.uint8)
    rows = slice(max(0, round(top)), max(0, round(top + box_height)))
    mask[rows, max(0, round(left)) : max(0, round(left + box_width))] = 1
    return mask


def as_instances(masks: np.ndarray, classes: np.ndarray) -> Instances:
    """Detectron2's `Instances` (`gt_masks`, `gt_boxes`, `gt_classes`); empty masks are dropped.

    Args:
        masks: bool [N, h, w].
        classes: int64 [N].
    """
    columns = masks.any(axis=1)
    kept = columns.any(axis=1)
    masks, columns, classes = masks[kept], columns[kept], classes[kept]
    rows = masks.any(axis=2)
    height, width = masks.shape[1:]
    boxes = np.stack(
        [
            columns.argmax(axis=1),
            rows.argmax(axis=1),
            width - columns[:, ::-1].argmax(axis=1),
            height - rows[:, ::-1].argmax(axis=1),
        ],
        axis=1,
    ).astype(np.float32)
    instances = Instances((height, width))
    instances.gt_classes = torch.from_numpy(np.ascontiguousarray(classes))
    instances.gt_boxes = Boxes(torch.from_numpy(boxes))
    instances.gt_masks = BitMasks(torch.from_numpy(np.ascontiguousarray(masks)))
    return instances
