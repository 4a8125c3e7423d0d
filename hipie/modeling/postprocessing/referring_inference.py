"""Referring inference: the instance that an expression describes."""

from __future__ import annotations

import torch
from detectron2.structures import Instances
from torch import Tensor

from hipie.modeling.criterion.predictions import LayerPrediction
from hipie.modeling.postprocessing.instance_inference import ImageFrame, instance_inference
from hipie.modeling.postprocessing.mask_upsampling import Size
from hipie.modeling.postprocessing.score_calibration import instance_scores


def best_query(expression_logits: Tensor, iou_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Select the query with the highest score.

    Non-maximum suppression never removes the best query, so none is applied.

    Args:
        expression_logits: [..., Q, 1] logits of the pooled expression.
        iou_logits: [..., Q, 1] predicted IoU before the sigmoid.

    Returns:
        Query index [...] and score [...] in 0..1.
    """
    score, query = instance_scores(expression_logits, iou_logits).squeeze(-1).max(-1)
    return query, score


def referring_inference(
    things: LayerPrediction,
    *,
    pair: int,
    num_background: int,
    input_size: Size,
    output_size: Size,
) -> Instances:
    """Build the best instance for an (image, expression) pair.

    Args:
        things: last layer of the thing decoder, one logit a query.
        pair: index of the pair in the batch.
        num_background: number of leading background queries, which are skipped.
        input_size: (height, width) of the unpadded image.
        output_size: (height, width) of the results.

    Returns:
        One instance, or none if its box is empty.
    """
    frame = ImageFrame(pair, input_size, output_size)
    with torch.autocast(things.token_logits.device.type, enabled=False):
        query, score = best_query(
            things.token_logits[pair, num_background:], things.iou_logits[pair, num_background:]
        )
        query = query[None] + num_background
        return instance_inference(things, query, score[None], torch.zeros_like(query), frame)
