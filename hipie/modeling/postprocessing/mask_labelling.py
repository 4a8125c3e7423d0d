"""Classification of class-agnostic masks by semantic scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def classify_masks(masks: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Assign to every mask the class with the largest sum of scores over its pixels.

    Args:
        masks: [N, H, W] bool, none of them empty.
        scores: [K, H, W] semantic scores of at least 0.

    Returns:
        Classes [N], and their share [N] of the sums of all classes.
    """
    flat = scores.flatten(1).float()
    sums = masks.flatten(1).to(flat.device, flat.dtype) @ flat.t()
    best, classes = sums.max(1)
    return classes, best / sums.sum(1).clamp(min=torch.finfo(flat.dtype).tiny)


def non_overlapping_segments(
    masks: Tensor, classes: Tensor, scores: Tensor, is_thing: Sequence[bool]
) -> list[tuple[int, float, Tensor]]:
    """Turn labelled masks into segments without overlap; smaller masks take precedence.

    Args:
        masks: [N, H, W] bool.
        classes: [N].
        scores: [N].
        is_thing: [K]; masks of one stuff class become one segment with their best score.

    Returns:
        (class, score, mask [H, W]) of every segment that keeps a pixel, largest first.
    """
    order = masks.flatten(1).sum(1).argsort(descending=True, stable=True).tolist()
    owner = torch.full(masks.shape[-2:], -1, dtype=torch.long, device=masks.device)
    for index in order:
        owner[masks[index]] = index
    segments: list[tuple[int, float, Tensor]] = []
    stuff_segment: dict[int, int] = {}
    for index in order:
        visible, label, score = owner == index, int(classes[index]), float(scores[index])
        if not visible.any():
            continue
        if is_thing[label] or label not in stuff_segment:
            stuff_segment.setdefault(label, len(segments))
            segments.append((label, score, visible))
        else:
            position = stuff_segment[label]
            _, other_score, mask = segments[position]
            segments[position] = (label, max(score, other_score), mask | visible)
    return segments
