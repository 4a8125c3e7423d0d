"""Refinement of masks by SAM: things prompted by boxes, parts by a box and a point."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from hipie.box_ops import masks_to_boxes
from hipie.modeling.sam.predictor import SamImage


def refine_things(image: SamImage, masks: Tensor) -> Tensor:
    """Replace masks by SAM's masks of their bounding boxes.

    Args:
        image: encoded by SAM.
        masks: [N, H, W] bool.

    Returns:
        [N, H, W] bool. Empty masks stay empty; a mask for which SAM predicts an empty one is kept.
    """
    non_empty = masks.flatten(1).any(1).nonzero().flatten()
    if not len(non_empty):
        return masks.clone()
    refined = image.predict(boxes=masks_to_boxes(masks[non_empty])).masks[:, 0]
    return _replace_non_empty(masks, non_empty, refined)


def refine_things_and_stuff(
    image: SamImage, masks: Tensor, scores: Tensor, is_stuff: Tensor, *, overlap: bool = False
) -> Tensor:
    """Replace the masks of things by SAM's masks of their boxes; stuff loses the pixels of things.

    Args:
        image: encoded by SAM.
        masks: [N, H, W] bool.
        scores: [N].
        is_stuff: [N] bool.
        overlap: keep overlaps between things; otherwise the higher score wins a pixel.

    Returns:
        [N, H, W] bool; see `refine_things`.
    """
    result = masks.clone()
    if is_stuff.all():
        return result
    things = refine_things(image, masks[~is_stuff])
    if not overlap:
        things = without_overlap(things, scores[~is_stuff])
    result[~is_stuff] = things.to(masks.device)
    result[is_stuff] &= ~result[~is_stuff].any(0)
    return result


def refine_parts(image: SamImage, parts: Tensor, wholes: Tensor, clip: bool = True) -> Tensor:
    """Replace the masks of parts by SAM's masks, restricted to their wholes.

    The prompt is the part's bounding box and its pixel farthest from its border.

    Args:
        image: encoded by SAM.
        parts: [N, H, W] bool.
        wholes: [N, H, W] bool, the whole of each part.
        clip: whether refined masks are intersected with their whole.

    Returns:
        [N, H, W] bool. Empty masks stay empty; a part whose refined mask would be empty is kept.
    """
    non_empty = parts.flatten(1).any(1).nonzero().flatten()
    if not len(non_empty):
        return parts.clone()
    points = np.stack([farthest_inside_point(mask) for mask in parts[non_empty].cpu().numpy()])
    refined = image.predict(
        points=points[:, None],
        labels=np.ones((len(non_empty), 1)),
        boxes=masks_to_boxes(parts[non_empty]),
    ).masks[:, 0]
    if clip:
        refined = refined & wholes[non_empty].to(refined.device)
    return _replace_non_empty(parts, non_empty, refined)


def without_overlap(masks: Tensor, scores: Tensor) -> Tensor:
    """Assign every pixel to the mask with the highest score.

    Args:
        masks: [N, H, W] bool.
        scores: [N].

    Returns:
        [N, H, W] bool, masks that do not overlap.
    """
    assigned = torch.zeros(masks.shape[-2:], dtype=torch.bool, device=masks.device)
    disjoint = torch.zeros_like(masks)
    for index in scores.argsort(descending=True, stable=True).tolist():
        disjoint[index] = masks[index] & ~assigned
        assigned |= masks[index]
    return disjoint


def farthest_inside_point(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """(x, y) of the pixel of a mask [H, W] with the largest distance to the pixels outside it."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(x), int(y)


def _replace_non_empty(masks: Tensor, indices: Tensor, refined: Tensor) -> Tensor:
    result = masks.clone()
    for index, mask in zip(indices.tolist(), refined.to(masks.device), strict=True):
        if mask.any():
            result[index] = mask
    return result
