"""Scores of classes -> Detectron2's semantic and panoptic outputs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.vocabularies.vocabulary import Vocabulary

BACKGROUND = "background"


def background_class(vocabulary: Vocabulary, threshold: float) -> int | None:
    """The class that unsure pixels fall to, where there is a threshold and such a class."""
    names = [name.strip().lower() for name in vocabulary.names]
    return names.index(BACKGROUND) if threshold > 0 and BACKGROUND in names else None


def class_scores(scores: Tensor, owners: Tensor, classes: int) -> Tensor:
    """The best of every class's names.

    Args:
        scores: [N, ...] of names.
        owners: [N] class of each name.
        classes: K; one without names scores 0.

    Returns:
        [K, ...].
    """
    found = scores.new_zeros(classes, *scores.shape[1:])
    rows = owners.view(-1, *[1] * (scores.ndim - 1)).expand_as(scores)
    return found.scatter_reduce(0, rows, scores, "amax", include_self=False)


def resized(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """[K, h, w] float maps at another size, bilinearly."""
    if tuple(scores.shape[-2:]) == tuple(size):
        return scores.float()
    return F.interpolate(scores[None].float(), size=size, mode="bilinear", align_corners=False)[0]


def results(
    scores: Tensor,
    vocabulary: Vocabulary,
    threshold: float = 0.0,
    regions: Tensor | None = None,
    nothing: Tensor | None = None,
) -> dict[str, Any]:
    """What evaluators and the segmenter read.

    Args:
        scores: [K, H, W] 0..1 at the image's size.
        vocabulary: K classes.
        threshold: pixels whose best score is below it are background.
        regions: [H, W] long; then each of them is a thing of its own. Otherwise all pixels of a
            class are one segment.
        nothing: [H, W] bool, pixels that are background; by default those below the threshold.

    Returns:
        `sem_seg` [K, H, W] and `panoptic_seg`: [H, W] int32 ids, 0 for none, and a dict a segment
        with `id`, `isthing`, `category_id` (the class's place) and `score`.
    """
    best, labels = scores.max(0)
    nothing = best < threshold if nothing is None else nothing
    empty = background_class(vocabulary, threshold)
    semantic = scores
    if empty is not None:
        semantic = scores.clone()
        semantic[:, nothing] = 0.0
        semantic[empty] = nothing.float()
    panoptic = torch.zeros_like(labels, dtype=torch.int32)
    infos: list[dict[str, Any]] = []
    for label in labels.unique().tolist():
        own = (labels == label) & ~nothing
        thing = vocabulary.classes[label].kind == "thing"
        pieces = [own]
        if regions is not None and thing:
            pieces = [own & (regions == one) for one in regions[own].unique().tolist()]
        for mask in pieces:
            if not mask.any():
                continue
            panoptic[mask] = len(infos) + 1
            infos.append(
                {
                    "id": len(infos) + 1,
                    "isthing": thing,
                    "category_id": label,
                    "score": float(best[mask].mean()),
                }
            )
    return {"sem_seg": semantic, "panoptic_seg": (panoptic, infos)}
