"""The loss terms of one prediction, once it is known which query answers for which object.

Every function returns a sum over pairs; the criteria divide by their own normalisers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.criterion.batched_targets import ObjectTable
from hipie.modeling.criterion.box_ops import giou, iou, to_corners
from hipie.modeling.criterion.checks import require_finite
from hipie.modeling.criterion.dice import dice
from hipie.modeling.criterion.focal import token_focal
from hipie.modeling.criterion.point_sampling import sample_logits, sample_objects, uncertain_points
from hipie.modeling.criterion.predictions import LayerPrediction
from hipie.modeling.matcher.matching import Matching


def class_sum(
    token_logits: Tensor, matching: Matching, positive_map: Tensor, text_mask: Tensor | None
) -> Tensor:
    """Token focal loss of all queries: a matched query's positives are its object's tokens.

    Args:
        token_logits: [B, Q, T].
        matching: pairs; queries without one have only negatives.
        positive_map: [M, T] bool, a row an object of the table.
        text_mask: [B, T] bool or None.
    """
    positive = torch.zeros(token_logits.shape, dtype=torch.bool, device=token_logits.device)
    positive[matching.image, matching.query] = positive_map[matching.row]
    return token_focal(token_logits, positive, text_mask)


def box_sums(
    boxes: Tensor, matching: Matching, table: ObjectTable, counted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """L1 distance and 1 - GIoU of the pairs' boxes.

    Args:
        boxes: [B, Q, 4] cxcywh.
        matching: n pairs.
        table: the objects.
        counted: [n] bool, the pairs that take part; None: all.
    """
    found = boxes.float()[matching.image, matching.query]
    wanted = table.boxes[matching.row]
    distance = (found - wanted).abs().sum(dim=1)
    apart = 1 - giou(to_corners(found), to_corners(wanted))
    if counted is not None:
        distance, apart = distance * counted, apart * counted
    return distance.sum(), apart.sum()


def quality_sum(
    iou_logits: Tensor, boxes: Tensor, matching: Matching, table: ObjectTable
) -> Tensor:
    """Binary cross entropy of the predicted box quality against the IoU that was reached.

    Args:
        iou_logits: [B, Q, 1].
        boxes: [B, Q, 4] cxcywh; they get no gradient from here.
    """
    found = boxes.detach().float()[matching.image, matching.query]
    reached = iou(to_corners(found), to_corners(table.boxes[matching.row])).clamp(0, 1)
    logits = iou_logits.float()[matching.image, matching.query, 0]
    return F.binary_cross_entropy_with_logits(logits, reached, reduction="sum")


def mask_sums(
    prediction: LayerPrediction,
    matching: Matching,
    object_masks: Tensor,
    *,
    num_points: int,
    pointwise: Callable[[Tensor, Tensor], Tensor],
    first_query: int = 0,
    name: str = "masks",
) -> tuple[Tensor, Tensor]:
    """Mean pointwise loss and dice loss of the pairs' masks at points (see `mask_points`).

    Args:
        prediction: its `masks` are drawn for the matched queries only.
        matching: n pairs.
        object_masks: [M, H, W] bool, a row an object of the table.
        num_points: points a mask.
        pointwise: (logits, targets) -> loss of each point, both [n, num_points].
        first_query: what to add to a query's index for `prediction.masks`.
        name: for the message, should a mask not be finite.

    Raises:
        NonFiniteError: if a sampled mask logit is nan or infinite.
    """
    if len(matching) == 0:
        nothing = prediction.boxes.float()[:, :0].sum()
        return nothing, nothing
    masks = prediction.masks(matching.image, matching.query + first_query).float()
    points = uncertain_points(masks, num_points)
    logits = sample_logits(masks, points)
    require_finite(logits.detach(), name)
    wanted = sample_objects(object_masks, matching.row, points)
    return pointwise(logits, wanted).mean(dim=1).sum(), dice(logits, wanted).sum()


def require_finite_prediction(
    prediction: LayerPrediction, text_mask: Tensor | None, name: str
) -> None:
    """Check the class logits of real tokens, the boxes and the quality logits.

    Raises:
        NonFiniteError: naming the tensor.
    """
    logits = prediction.token_logits.detach()
    if text_mask is not None:
        logits = logits.masked_fill(~text_mask.bool()[:, None, :], 0.0)
    require_finite(logits, f"class logits of {name}")
    require_finite(prediction.boxes.detach(), f"boxes of {name}")
    if prediction.iou_logits is not None:
        require_finite(prediction.iou_logits.detach(), f"quality logits of {name}")
