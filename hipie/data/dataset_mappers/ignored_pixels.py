"""Pixels of a training image whose class is not known, from the annotation formats.

| pixels | annotation | value |
|---|---|---|
| without annotation | `ignore_label`, void of a panoptic map, 0 of a part map | `UNLABELLED` |
| held-out classes | objects and segments of `DATASETS.HELD_OUT_CLASSES` | `UNLABELLED` |
| crowds | objects that are not annotated one by one, `iscrowd` 1 | `CROWD` |
| all others, and padding | | 0 |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import transforms as T
from numpy.typing import NDArray

from hipie.data.annotation_maps import panoptic_ids
from hipie.data.dataset_mappers.annotations import decode_mask, instance_masks
from hipie.data.label_values import PANOPTIC_VOID
from hipie.structures import CROWD, UNLABELLED


def ignored_labels(
    labels: NDArray[Any], transform: T.Transform, ignore_label: int
) -> NDArray[np.uint8]:
    """Return the unlabelled pixels of a semantic or part map.

    Args:
        labels: integers [H, W].
        transform: applied first; pixels outside the map are padding.
        ignore_label: the value of pixels without annotation.

    Returns:
        uint8 [h, w].
    """
    return _transformed((labels == ignore_label) * UNLABELLED, transform)


def ignored_panoptic(
    colours: NDArray[Any], segments: Sequence[Mapping[str, Any]], transform: T.Transform
) -> NDArray[np.uint8]:
    """Return the void and the crowds of a COCO panoptic map.

    Args:
        colours: uint8 [H, W, 3], the PNG.
        segments: `segments_info`; pixels of other ids are unlabelled.
        transform: applied first.

    Returns:
        uint8 [h, w].
    """
    ids = panoptic_ids(colours)
    known = [s["id"] for s in segments if s["id"] != PANOPTIC_VOID]
    crowds = [s["id"] for s in segments if s.get("iscrowd", 0)]
    ignored = ~np.isin(ids, known) * UNLABELLED + np.isin(ids, crowds) * CROWD
    return _transformed(ignored, transform)


def ignored_annotations(
    annotations: Sequence[Mapping[str, Any]],
    height: int,
    width: int,
    transform: T.Transform,
    held_out: Sequence[Mapping[str, Any]] = (),
) -> NDArray[np.uint8]:
    """Return the crowds of COCO annotations, and the objects of held-out classes as unlabelled.

    Args:
        annotations: of the image; crowds without a mask are not used.
        height: of the image.
        width: of the image.
        transform: applied first.
        held_out: annotations of held-out classes, crowds or not. Pixels that another object has
            as well are not ignored.

    Returns:
        uint8 [h, w].
    """
    ignored = np.zeros((height, width), dtype=np.uint8)
    for annotation in annotations:
        if annotation.get("iscrowd", 0) and annotation.get("segmentation"):
            ignored[decode_mask(annotation["segmentation"], height, width) > 0] = CROWD
    if held_out:
        no_crowds = [{**entry, "iscrowd": 0} for entry in held_out]
        unlabelled, _ = instance_masks(no_crowds, height, width, T.NoOpTransform())
        known, _ = instance_masks(annotations, height, width, T.NoOpTransform())
        ignored[unlabelled.any(0) & ~known.any(0)] = UNLABELLED
    return _transformed(ignored, transform)


def _transformed(ignored: NDArray[Any], transform: T.Transform) -> NDArray[np.uint8]:
    # Transforms pad masks with 0, so that padding is not ignored.
    transformed: NDArray[np.uint8] = transform.apply_segmentation(ignored.astype(np.uint8))
    return transformed
