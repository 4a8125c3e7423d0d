"""Masks of HIPIE made finer by SAM: things by their boxes, parts by a box and a click."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from hipie.modeling.sam.predictor import SamImage


def refine_things(image: SamImage, masks: Tensor) -> Tensor:
    """What SAM finds in the boxes of masks, one mask a box.

    Args:
        image: as SAM sees it.
        masks: [N, H, W] bool; an empty one stays empty, and where SAM finds nothing the mask
            stays as it was.

    Returns:
        [N, H, W] bool.
    """
    shown = masks.flatten(1).any(1).nonzero().flatten()
    if not len(shown):
        return masks.clone()
    found = image.predict(boxes=boxes_of(masks[shown])).masks[:, 0]
    return _replaced(masks, shown, found)


def refine_parts(image: SamImage, parts: Tensor, wholes: Tensor, clip: bool = True) -> Tensor:
    """Parts that were found inside their wholes, refined by SAM and kept there.

    The prompt is the part's box and a click at the pixel deepest inside it.

    Args:
        image: as SAM sees it.
        parts: [N, H, W] bool.
        wholes: [N, H, W] bool, the whole of each part.
        clip: what SAM finds outside the whole is left out.

    Returns:
        [N, H, W] bool; a part of which nothing is left stays as it was.
    """
    shown = parts.flatten(1).any(1).nonzero().flatten()
    if not len(shown):
        return parts.clone()
    clicks = np.stack([deepest(mask) for mask in parts[shown].cpu().numpy()])
    found = image.predict(
        points=clicks[:, None], labels=np.ones((len(shown), 1)), boxes=boxes_of(parts[shown])
    ).masks[:, 0]
    if clip:
        found = found & wholes[shown].to(found.device)
    return _replaced(parts, shown, found)


def without_overlap(masks: Tensor, scores: Tensor) -> Tensor:
    """Masks [N, H, W] of which every pixel keeps the one with the highest score [N]."""
    taken = torch.zeros(masks.shape[-2:], dtype=torch.bool, device=masks.device)
    apart = torch.zeros_like(masks)
    for row in scores.argsort(descending=True, stable=True).tolist():
        apart[row] = masks[row] & ~taken
        taken |= masks[row]
    return apart


def boxes_of(masks: Tensor) -> Tensor:
    """[N, 4] x1, y1, x2, y2 around masks [N, H, W], none of them empty."""
    rows, columns = masks.any(2).int(), masks.any(1).int()
    height, width = masks.shape[-2:]
    return torch.stack(
        [
            columns.argmax(1),
            rows.argmax(1),
            width - columns.flip(1).argmax(1),
            height - rows.flip(1).argmax(1),
        ],
        dim=1,
    ).float()


def deepest(mask: np.ndarray) -> tuple[int, int]:
    """(x, y) of the pixel of a mask [H, W] that is farthest from everything outside it."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y)


def _replaced(masks: Tensor, rows: Tensor, found: Tensor) -> Tensor:
    result = masks.clone()
    for row, one in zip(rows.tolist(), found.to(masks.device), strict=True):
        if one.any():
            result[row] = one
    return result
