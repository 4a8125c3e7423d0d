"""Things and stuff in one map: semantic and panoptic segmentation (MaskFormer's rules)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def semantic(scores: Tensor, masks: Tensor) -> Tensor:
    """Sum over queries of class score times mask probability.

    Args:
        scores: [N, K].
        masks: [N, H, W] probabilities.

    Returns:
        [K, H, W].
    """
    return torch.einsum("nk,nhw->khw", scores, masks)


def panoptic(
    scores: Tensor,
    masks: Tensor,
    is_thing: Sequence[bool],
    object_threshold: float = 0.25,
    overlap_threshold: float = 0.8,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Give every pixel to one query; stuff of one class shares a segment.

    Args:
        scores: [N, K].
        masks: [N, H, W] probabilities.
        is_thing: K flags; a class beyond them counts as thing.
        object_threshold: a query takes part if its best score is above this.
        overlap_threshold: a segment stays if it won at least this share of its own mask.

    Returns:
        [H, W] int32 segment ids (0: nothing), and for every segment `id`, `isthing`,
        `category_id` (index of the class), `score` and `area`.
    """
    best, label = scores.max(-1)
    kept = best > object_threshold
    best, label, masks = best[kept], label[kept], masks[kept]
    ids = torch.zeros(masks.shape[-2:], dtype=torch.int32, device=masks.device)
    segments: list[dict[str, Any]] = []
    if not len(best):
        return ids, segments
    winner = (best[:, None, None] * masks).argmax(0)
    stuff_ids: dict[int, int] = {}
    for query, (score, category) in enumerate(zip(best.tolist(), label.tolist(), strict=True)):
        own = masks[query] >= 0.5
        won = winner == query
        segment = won & own
        area, won_area, own_area = int(segment.sum()), int(won.sum()), int(own.sum())
        if not (area and own_area and won_area) or won_area / own_area < overlap_threshold:
            continue
        thing = bool(is_thing[category]) if category < len(is_thing) else True
        if not thing and category in stuff_ids:
            ids[segment] = stuff_ids[category]
            known = segments[stuff_ids[category] - 1]
            known["area"] += area
            known["score"] = max(known["score"], score)
            continue
        segments.append(
            {
                "id": len(segments) + 1,
                "isthing": thing,
                "category_id": category,
                "score": score,
                "area": area,
            }
        )
        ids[segment] = len(segments)
        if not thing:
            stuff_ids[category] = len(segments)
    return ids, segments
