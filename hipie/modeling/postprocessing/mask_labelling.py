"""Names for masks that came from elsewhere: the class that scores highest over a mask's pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def classify_masks(masks: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The class of every mask.

    Args:
        masks: [N, H, W] bool, none of them empty.
        scores: [K, H, W] semantic scores of at least 0.

    Returns:
        classes [N], those with the largest sum over the mask's pixels, and their share [N] of
        the sums of all classes.
    """
    flat = scores.flatten(1).float()
    sums = masks.flatten(1).to(flat.device, flat.dtype) @ flat.t()
    best, classes = sums.max(1)
    return classes, best / sums.sum(1).clamp(min=torch.finfo(flat.dtype).tiny)


def non_overlapping_segments(
    masks: Tensor, classes: Tensor, scores: Tensor, is_thing: Sequence[bool]
) -> list[tuple[int, float, Tensor]]:
    """Labelled masks as segments that do not overlap: small ones are non_overlapping_segments over large ones.

    Args:
        masks: [N, H, W] bool.
        classes: [N].
        scores: [N].
        is_thing: [K]; masks of one stuff class are one segment, with the best score.

    Returns:
        (class, score, mask [H, W]) of every segment that still has a pixel, largest first.
    """
    order = masks.flatten(1).sum(1).argsort(descending=True, stable=True).tolist()
    owner = torch.full(masks.shape[-2:], -1, dtype=torch.long, device=masks.device)
    for row in order:
        owner[masks[row]] = row
    found: list[tuple[int, float, Tensor]] = []
    stuff: dict[int, int] = {}
    for row in order:
        mine, label, score = owner == row, int(classes[row]), float(scores[row])
        if not mine.any():
            continue
        if is_thing[label] or label not in stuff:
            stuff.setdefault(label, len(found))
            found.append((label, score, mine))
        else:
            place = stuff[label]
            _, other, mask = found[place]
            found[place] = (label, max(score, other), mask | mine)
    return found
