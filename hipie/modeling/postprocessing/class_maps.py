"""Postprocessing of class scores to Detectron2's semantic and panoptic outputs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.vocabularies.vocabulary import Vocabulary

BACKGROUND = "background"


def background_class(vocabulary: Vocabulary, threshold: float) -> int | None:
    """Index of the class "background" if there is a threshold and such a class, else None."""
    names = [name.strip().lower() for name in vocabulary.names]
    return names.index(BACKGROUND) if threshold > 0 and BACKGROUND in names else None


def class_scores(scores: Tensor, class_index: Tensor, num_classes: int) -> Tensor:
    """Take the maximum score over the names of every class.

    Args:
        scores: [N, ...] of N names.
        class_index: [N] class of each name.
        num_classes: K; classes without a name have score 0.

    Returns:
        [K, ...].
    """
    output = scores.new_zeros(num_classes, *scores.shape[1:])
    index = class_index.view(-1, *[1] * (scores.ndim - 1)).expand_as(scores)
    return output.scatter_reduce(0, index, scores, "amax", include_self=False)


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps [K, h, w] bilinearly to [K, *size] float32."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps.float()
    return F.interpolate(maps[None].float(), size=size, mode="bilinear", align_corners=False)[0]


def min_max_normalize(maps: Tensor) -> Tensor:
    """Scale every map [..., H, W] to 0..1; constant maps become 0."""
    low = maps.amin((-2, -1), keepdim=True)
    extent = maps.amax((-2, -1), keepdim=True) - low
    return (maps - low) / extent.masked_fill(extent == 0, 1.0)


def segmentation_outputs(
    scores: Tensor,
    vocabulary: Vocabulary,
    threshold: float = 0.0,
    regions: Tensor | None = None,
    background: Tensor | None = None,
) -> dict[str, Any]:
    """Convert class scores to semantic and panoptic segmentation.

    Args:
        scores: [K, H, W] in 0..1 at the image's size.
        vocabulary: K classes.
        threshold: pixels whose highest score is lower are background.
        regions: [H, W] long; each region of a thing class is a segment. By default all pixels of a
            class are one segment.
        background: [H, W] bool, background pixels; by default those below the threshold.

    Returns:
        `sem_seg` [K, H, W] and `panoptic_seg`: [H, W] int32 segment ids, 0 for background, and a
        dict for each segment with `id`, `isthing`, `category_id` (index of the class) and `score`.
    """
    best, labels = scores.max(0)
    background = best < threshold if background is None else background
    background_index = background_class(vocabulary, threshold)
    semantic = scores
    if background_index is not None:
        semantic = scores.clone()
        semantic[:, background] = 0.0
        semantic[background_index] = background.float()
    panoptic = torch.zeros_like(labels, dtype=torch.int32)
    segments: list[dict[str, Any]] = []
    for label in labels.unique().tolist():
        class_mask = (labels == label) & ~background
        is_thing = vocabulary.classes[label].kind == "thing"
        masks = [class_mask]
        if regions is not None and is_thing:
            ids = regions[class_mask].unique().tolist()
            masks = [class_mask & (regions == region) for region in ids]
        for mask in masks:
            if not mask.any():
                continue
            panoptic[mask] = len(segments) + 1
            segments.append(
                {
                    "id": len(segments) + 1,
                    "isthing": is_thing,
                    "category_id": label,
                    "score": float(best[mask].mean()),
                }
            )
    return {"sem_seg": semantic, "panoptic_seg": (panoptic, segments)}
