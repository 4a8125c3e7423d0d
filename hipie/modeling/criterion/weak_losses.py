"""Losses of objects that have no masks: of boxes (BoxInst) and of labelled points (PointSup).

Tian et al., "BoxInst: High-Performance Instance Segmentation with Box Annotations", CVPR 2021;
Cheng et al., "Pointly-Supervised Instance Segmentation", CVPR 2022.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor

from hipie.modeling.criterion.color_affinity import neighbours
from hipie.modeling.criterion.losses import (
    LOSS_REGISTRY,
    MatchedLayer,
    WeakLossSettings,
    focal,
)
from hipie.modeling.criterion.point_sampling import point_sample
from hipie.structures import BOX, POINTS, Supervision

DICE_EPSILON = 1e-5


def weak_loss_settings(cfg: CfgNode) -> WeakLossSettings:
    """Constants of `MODEL.HIPIE.LOSS.WEAK`."""
    node = cfg.MODEL.HIPIE.LOSS.WEAK
    return WeakLossSettings(node.PROJECTION, node.PAIRWISE, node.COLOR_THRESHOLD, node.WARMUP_ITERS)


# Functions ----------------------------------------------------------------------------------


def mask_projection(logits: Tensor, boxes: Tensor) -> Tensor:
    """Dice losses of a mask's projections onto both axes and those of its box (equation 3).

    Args:
        logits: [n, h, w].
        boxes: [n, h, w] of 0 and 1, filled boxes.

    Returns:
        [n], the sum of both axes.
    """
    probability, boxes = logits.float().sigmoid(), boxes.float()
    losses = probability.new_zeros(len(probability))
    for axis in (1, 2):
        predicted, target = probability.amax(dim=axis), boxes.amax(dim=axis)
        total = (predicted**2).sum(dim=1) + (target**2).sum(dim=1) + DICE_EPSILON
        losses = losses + 1 - 2 * (predicted * target).sum(dim=1) / total
    return losses


def different_labels(logits: Tensor) -> Tensor:
    """Negative log probability that a pixel has the label of each neighbour (equation 5).

    Args:
        logits: [n, h, w].

    Returns:
        [n, 8, h, w]; neighbours outside of the map have the probability 1 of either label.
    """
    logits = logits.float()
    both = [F.logsigmoid(sign * logits) for sign in (1, -1)]
    on, off = (label[:, None] + neighbours(label) for label in both)
    return -torch.logaddexp(on, off)


def point_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross entropy of the labelled points of every row.

    Args:
        logits: [n, P].
        labels: [n, P], 1, 0, or -1 for no label.

    Returns:
        [n]; 0 for rows without a label.
    """
    labelled = (labels >= 0).float()
    targets = labels.clamp(min=0).float()
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets, labelled, reduction="none")
    return losses.sum(dim=1) / labelled.sum(dim=1).clamp(min=1)


# Terms --------------------------------------------------------------------------------------


@LOSS_REGISTRY.register_term("projection", weight_key="DICE", group="mask")
def projection_loss(matched: MatchedLayer) -> Tensor | None:
    """Projection loss of the pairs that have a box only."""
    pairs = _box_pairs(matched)
    if pairs is None:
        return None
    boxes_only, logits, boxes = pairs
    losses = mask_projection(logits, boxes) * _scores(boxes_only)
    return matched.weak.projection * losses.sum()


@LOSS_REGISTRY.register_term("pairwise", weight_key="DICE", group="mask")
def pairwise_loss(matched: MatchedLayer) -> Tensor | None:
    """Pairwise colour-affinity loss of the pairs that have a box only.

    Counted are the edges of two pixels of similar colour, of which the first is in the box; their
    mean over all pairs is multiplied by the number of pairs, as the published program divides.
    Edges are counted in each process, as there, whatever AVERAGE_NORMALIZERS is.
    """
    pairs = _box_pairs(matched)
    if pairs is None:
        return None
    boxes_only, logits, boxes = pairs
    if len(logits) == 0:
        return logits.sum()
    similarity = _supervision(matched).similarity
    edges = (similarity >= matched.weak.color_threshold)[boxes_only.matching.image_index]
    weights = (edges & boxes[:, None]) * _scores(boxes_only)[:, None, None, None]
    total = (different_labels(logits) * weights).sum() / weights.sum().clamp(min=1)
    weight = matched.weak.pairwise * _warmup(matched.weak.warmup)
    return weight * total * len(logits)


@LOSS_REGISTRY.register_term("point", weight_key="MASK", group="mask")
def point_loss(matched: MatchedLayer) -> Tensor | None:
    """Partial cross entropy of the pairs with labelled pixels, points or scribbles."""
    if matched.masks is None:
        return None
    supervision = _supervision(matched)
    pairs = matched.select(supervision.kinds[matched.matching.target_index] >= POINTS)
    index = pairs.matching.target_index
    logits = point_sample(_mask_logits(pairs), supervision.points[index])
    losses = point_cross_entropy(logits, supervision.point_labels[index])
    return (losses * supervision.scores[index]).sum()


@LOSS_REGISTRY.register_term("tag", weight_key="CLASS", group="tag")
def tag_loss(matched: MatchedLayer) -> Tensor | None:
    """Multiple-instance loss of images whose classes are known, and not their objects.

    The best query of each class that an image shows is its positive (Oquab et al., "Is object
    localization for free?", CVPR 2015, with queries as places), and all queries are negatives of
    the tokens of all other classes, by the focal loss; other queries give no loss for the classes
    that are shown. Sums are divided by the number of tags of the image. There is no such loss of
    class-agnostic proposals.
    """
    logits = matched.layer.require_logits().float()
    total = logits.sum() * 0
    for image, tags in enumerate(matched.targets.tags):
        if tags is None or 0 in logits.shape or logits.shape[2] != len(tags.absent_tokens):
            continue
        present = tags.positive_map[tags.is_thing] if matched.things_only else tags.positive_map
        absent = tags.absent_tokens
        if matched.things_only:
            absent = absent | tags.positive_map[~tags.is_thing].any(dim=0)
        total = total + focal(logits[image], torch.zeros_like(logits[image]))[:, absent].sum() / (
            max(len(present), 1)
        )
        if len(present):
            total = total + tag_cross_entropy(logits[image], present).mean()
    return total


def tag_cross_entropy(logits: Tensor, present: Tensor) -> Tensor:
    """Negative log probability of the best query of every class.

    Args:
        logits: [Q, T].
        present: [C, T] bool, the tokens of each class.

    Returns:
        [C]; a query's logit of a class is the mean of those of its tokens.
    """
    share = present.float() / present.sum(dim=1, keepdim=True).clamp(min=1)
    return -F.logsigmoid((logits @ share.T).amax(dim=0))


def _box_pairs(matched: MatchedLayer) -> tuple[MatchedLayer, Tensor, Tensor] | None:
    """Pairs with a box only, with their mask logits and filled boxes [n, h, w]; None = no masks."""
    if matched.masks is None:
        return None
    supervision = _supervision(matched)
    pairs = matched.select(supervision.kinds[matched.matching.target_index] == BOX)
    logits = _mask_logits(pairs)
    boxes = _resized(matched.targets.masks, (logits.shape[-2], logits.shape[-1]))
    return pairs, logits, boxes[pairs.matching.target_index]


def _mask_logits(matched: MatchedLayer) -> Tensor:
    assert matched.masks is not None  # checked by the callers
    matching, features = matched.matching, matched.masks.features
    counts = matching.counts if len(matching) else (0,) * len(features)
    return matched.masks.head.logits(
        matched.layer, features, matching.image_index, matching.query_index, counts
    ).float()


def _resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks [M, H, W] at the pixels that are the centres of those of a smaller size."""
    if tuple(masks.shape[-2:]) == size:
        return masks
    steps = [full // small for full, small in zip(masks.shape[-2:], size, strict=True)]
    return masks[:, steps[0] // 2 :: steps[0], steps[1] // 2 :: steps[1]]


def _supervision(matched: MatchedLayer) -> Supervision:
    supervision = matched.targets.supervision
    if supervision is None:
        raise ValueError("this loss needs targets with `supervision`")
    return supervision


def _scores(matched: MatchedLayer) -> Tensor:
    return _supervision(matched).scores[matched.matching.target_index]


def _warmup(iterations: int) -> float:
    """Share of the iterations of the warm-up that a training has done; 1 outside of a training."""
    if iterations <= 0 or not has_event_storage():
        return 1.0
    return min((get_event_storage().iter + 1) / iterations, 1.0)
