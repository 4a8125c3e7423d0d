"""Referring inference: the instance that an expression describes."""

from __future__ import annotations

import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from hipie.modeling.device_transfer import to_host
from hipie.modeling.postprocessing.instance_inference import (
    ImageFrame,
    InstanceCandidates,
    instance_inference,
    kept_pairs,
)
from hipie.modeling.postprocessing.score_calibration import instance_scores
from hipie.structures import ImageQueries, Size


def best_query(expression_logits: Tensor, iou_logits: Tensor | None) -> tuple[Tensor, Tensor]:
    """Select the query with the highest score.

    Non-maximum suppression never removes the best query, so none is applied.

    Args:
        expression_logits: [..., Q, 1] logits of the pooled expression.
        iou_logits: [..., Q, 1] predicted IoU before the sigmoid; None = it does not count.

    Returns:
        Query index [...] and score [...] in 0..1.
    """
    score, query = instance_scores(expression_logits, iou_logits).squeeze(-1).max(-1)
    return query, score


def referring_inference(
    things: ImageQueries,
    *,
    input_size: Size,
    output_size: Size,
    no_target_threshold: float = 0.0,
) -> Instances:
    """Build the best instance for an (image, expression) pair.

    Args:
        things: predictions of the thing decoder for the pair, one logit a query.
        input_size: (height, width) of the unpadded image.
        output_size: (height, width) of the results.
        no_target_threshold: score below which the expression describes nothing.

    Returns:
        One instance, or none if its score is below the threshold or its box is empty.
    """
    boxes = things.layer.boxes[0]
    frame = ImageFrame(input_size, output_size)
    with torch.autocast(boxes.device.type, enabled=False):
        query, score = best_query(things.token_logits, things.iou_logits)
        queries, label = query[None], torch.zeros_like(query[None])
        best = InstanceCandidates.from_pairs(boxes, queries, score[None], label, frame)
        finite, is_shown = best.is_valid.unbind(1)
        is_valid = torch.stack([finite, is_shown & (score >= no_target_threshold)], dim=1)
        kept = kept_pairs(*to_host([is_valid]))
        mask_logits = things.masks(queries[: len(kept)])
        return instance_inference(best, kept, mask_logits, kept, frame)


def expression_instances(probabilities: Tensor, mask: Tensor) -> Instances:
    """Convert the mask of one expression to `Instances`.

    Args:
        probabilities: [H, W] in 0..1.
        mask: [H, W] bool.

    Returns:
        `pred_masks` [1, H, W], `pred_boxes`, `scores` (the mean probability inside the mask) and
        `pred_classes` 0; without any instance if the mask is empty.
    """
    count = int(bool(mask.any()))
    instances = Instances((int(mask.shape[0]), int(mask.shape[1])))
    instances.pred_masks = mask[None][:count]
    instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
    inside = probabilities[mask]
    instances.scores = inside.mean()[None] if count else inside
    instances.pred_classes = torch.zeros(count, dtype=torch.long, device=mask.device)
    return instances
