"""Masks of an image's objects from the annotation formats, after a transform.

Formats: COCO panoptic PNG (id = R + 256 G + 256^2 B), COCO polygons and RLE, label maps of
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
from numpy.typing import NDArray
from scipy import ndimage

from hipie.box_ops import masks_to_boxes
from hipie.data.annotation_maps import panoptic_ids
from hipie.data.io.rle import to_rle
from hipie.data.label_values import PANOPTIC_VOID, PART_IGNORE, transform_labels
from hipie.data.records import xywh_box

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)


def panoptic_masks(
    colours: NDArray[Any], segments: Iterable[Mapping[str, Any]], transform: T.Transform
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the masks of a COCO panoptic map.

    Args:
        colours: uint8 [H, W, 3], the PNG.
        segments: `segments_info` with contiguous `category_id`; crowds are dropped, and the id 0
            is not a segment.
        transform: applied to the map first.

    Returns:
        (bool [N, h, w], classes int64 [N]).
    """
    non_crowd = [s for s in segments if not s.get("iscrowd", 0) and s["id"] != PANOPTIC_VOID]
    ids = panoptic_ids(transform.apply_segmentation(colours))
    segment_ids = np.array([s["id"] for s in non_crowd], dtype=np.int32)
    classes = np.array([s["category_id"] for s in non_crowd], dtype=np.int64)
    return ids[None] == segment_ids[:, None, None], classes


def part_masks(
    labels: NDArray[Any], transform: T.Transform, min_area: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the connected components (8 neighbours) of a part map, one mask each.

    Args:
        labels: integers [H, W], class index + 1, 0 = ignore.
        transform: applied to the map first.
        min_area: smaller components are dropped, pixels of the transformed map.

    Returns:
        (bool [N, h, w], classes int64 [N]), by class, then from the top.
    """
    transformed = transform_labels(labels, transform, PART_IGNORE)
    masks: list[NDArray[Any]] = []
    classes: list[int] = []
    for index, window in enumerate(ndimage.find_objects(transformed)):
        if window is None:
            continue
        components, _ = ndimage.label(transformed[window] == index + 1, structure=EIGHT_NEIGHBOURS)
        areas = np.bincount(components.ravel())
        for component in range(1, len(areas)):
            if areas[component] >= min_area:
                mask = np.zeros(transformed.shape, dtype=bool)
                mask[window] = components == component
                masks.append(mask)
                classes.append(index)
    stacked = np.stack(masks) if masks else np.zeros((0, *transformed.shape), dtype=bool)
    return stacked, np.array(classes, dtype=np.int64)


def semantic_masks(
    labels: NDArray[Any], transform: T.Transform, ignore_label: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return one mask for each class of a semantic map.

    Args:
        labels: integers [H, W], class indices.
        transform: applied to the map first.
        ignore_label: the value without a class, also of pixels outside the map.

    Returns:
        (bool [N, h, w], classes int64 [N]), by class.
    """
    transformed = transform_labels(labels, transform, ignore_label)
    present = np.unique(transformed)
    classes = present[present != ignore_label].astype(np.int64)
    return transformed[None] == classes[:, None, None], classes


def decode_mask(segmentation: Any, height: int, width: int) -> NDArray[Any]:
    """Decode COCO polygons or an RLE (compressed or not) to a mask; polygons are joined.

    Returns:
        uint8 [height, width] of 0 and 1.
    """
    return mask_util.decode(to_rle(segmentation, height, width))


def instance_masks(
    annotations: Sequence[Mapping[str, Any]], height: int, width: int, transform: T.Transform
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the masks of COCO annotations, filled boxes for those without; crowds are dropped.

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
            box = xywh_box("an annotation", annotation, height, width)
            mask = _filled_box(box, height, width)
        masks.append(transform.apply_segmentation(mask).astype(bool))
        classes.append(annotation["category_id"])
    if not masks:
        shape = transform.apply_segmentation(np.zeros((height, width), np.uint8)).shape
        return np.zeros((0, *shape), dtype=bool), np.zeros(0, dtype=np.int64)
    return np.stack(masks), np.array(classes, dtype=np.int64)


def _filled_box(box: Sequence[float], height: int, width: int) -> NDArray[Any]:
    left, top, box_width, box_height = box
    mask = np.zeros((height, width), dtype=np.uint8)
    rows = slice(max(0, round(top)), max(0, round(top + box_height)))
    mask[rows, max(0, round(left)) : max(0, round(left + box_width))] = 1
    return mask


def masks_to_instances(masks: NDArray[Any], classes: NDArray[Any]) -> Instances:
    """Convert masks to Detectron2's `Instances` for training; empty masks are dropped.

    Args:
        masks: bool [N, h, w].
        classes: int64 [N].

    Returns:
        `gt_masks`, `gt_boxes` (absolute xyxy), `gt_classes`.
    """
    not_empty = masks.any(axis=(1, 2))
    gt_masks = torch.from_numpy(np.ascontiguousarray(masks[not_empty]))
    instances = Instances(masks.shape[1:])
    instances.gt_classes = torch.from_numpy(classes[not_empty])
    instances.gt_boxes = Boxes(masks_to_boxes(gt_masks))
    instances.gt_masks = BitMasks(gt_masks)
    return instances
