"""Objects of training items of which not the whole mask is annotated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from numpy.typing import NDArray

from hipie.box_ops import masks_to_boxes
from hipie.structures import BOX


@dataclass(frozen=True)
class WeakAnnotations:
    """What is annotated of N objects of an image.

    Attributes:
        kinds: int64 [N], see `hipie.structures.Supervision`.
        points: float32 [N, P, 3], x and y in pixels, and 1 on the object, 0 beside it, -1 for no
            point.
    """

    kinds: NDArray[np.int64]
    points: NDArray[np.float32]

    def select(self, index: NDArray[np.generic]) -> Self:
        """Some of the objects, by index or by a mask of bool."""
        return type(self)(self.kinds[index], self.points[index])

    def add_to(self, instances: Instances) -> None:
        """Set the fields `gt_supervision` and `gt_points` of the same objects."""
        instances.gt_supervision = torch.from_numpy(self.kinds)
        if self.points.shape[1]:
            instances.gt_points = torch.from_numpy(self.points)


def boxes_of_masks(
    masks: NDArray[np.bool_], transform: T.Transform
) -> tuple[NDArray[np.bool_], WeakAnnotations]:
    """Keep the boxes of objects only.

    The box is that of the whole mask before the transform, as it would have been annotated.

    Args:
        masks: bool [N, H, W].
        transform: applied to the boxes.

    Returns:
        bool [N, h, w], filled boxes, and what is annotated.
    """
    filled = [transform.apply_segmentation(box).astype(bool) for box in filled_boxes(masks)]
    kinds = np.full(len(masks), BOX, dtype=np.int64)
    shape = transform.apply_segmentation(np.zeros(masks.shape[1:], np.uint8)).shape
    stacked = np.stack(filled) if filled else np.zeros((0, *shape), dtype=bool)
    return stacked, WeakAnnotations(kinds, np.zeros((len(masks), 0, 3), np.float32))


def filled_boxes(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Fill the boxes of masks [N, H, W] that have a pixel; uint8 of the same shape."""
    boxes = masks_to_boxes(torch.from_numpy(np.ascontiguousarray(masks))).long().tolist()
    filled = np.zeros(masks.shape, dtype=np.uint8)
    for place, (left, top, right, bottom) in zip(filled, boxes, strict=True):
        place[top:bottom, left:right] = 1
    return filled
