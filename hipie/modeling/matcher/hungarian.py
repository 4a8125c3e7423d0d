"""One query an object at the least total cost (DETR, Carion et al., ECCV 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from hipie.modeling.criterion.box_ops import giou, to_corners
from hipie.modeling.criterion.checks import require_finite
from hipie.modeling.criterion.dice import pairwise_cross_entropy, pairwise_dice
from hipie.modeling.criterion.focal import focal_class_cost


@dataclass(frozen=True)
class CostWeights:
    """What each kind of misfit costs; the defaults are those of the encoder's proposals."""

    class_: float = 2.0
    box: float = 5.0
    giou: float = 2.0
    mask: float = 0.0
    dice: float = 0.0


@torch.no_grad()
def matching_cost(
    token_logits: Tensor,
    boxes: Tensor,
    object_boxes: Tensor,
    positive_map: Tensor,
    weights: CostWeights,
    *,
    point_logits: Tensor | None = None,
    object_points: Tensor | None = None,
    has_box: Tensor | None = None,
) -> Tensor:
    """Cost of giving each query of an image to each of its objects, [Q, N] float32.

    Args:
        token_logits: [Q, T].
        boxes: [Q, 4] cxcywh.
        object_boxes: [N, 4] cxcywh.
        positive_map: [N, T] bool.
        weights: what each term counts.
        point_logits: [Q, P] mask logits at shared points, where masks count.
        object_points: [N, P] the objects' masks there, 0..1.
        has_box: [N] bool; the box costs of the others are the mean of those that have one.
    """
    box_cost = torch.cdist(boxes.float(), object_boxes.float(), p=1)
    giou_cost = -giou(to_corners(boxes)[:, None], to_corners(object_boxes))
    if has_box is not None:
        box_cost = _even_out(box_cost, has_box)
        giou_cost = _even_out(giou_cost, has_box)
    cost = weights.class_ * focal_class_cost(token_logits, positive_map)
    cost = cost + weights.box * box_cost + weights.giou * giou_cost
    if point_logits is not None:
        cost = cost + weights.mask * pairwise_cross_entropy(point_logits, object_points)
        cost = cost + weights.dice * pairwise_dice(point_logits, object_points)
    return cost


def assign(cost: Tensor, name: str = "matching cost") -> tuple[Tensor, Tensor]:
    """The pairs of least total cost: [Q, N] -> query [n] (rising) and object [n], n = min(Q, N).

    Raises:
        NonFiniteError: naming `name`, if a cost is nan or infinite.
    """
    require_finite(cost, name)
    query, chosen = linear_sum_assignment(cost.detach().cpu().numpy())
    return (
        torch.as_tensor(query, dtype=torch.long, device=cost.device),
        torch.as_tensor(chosen, dtype=torch.long, device=cost.device),
    )


def _even_out(cost: Tensor, has_box: Tensor) -> Tensor:
    mean = cost[:, has_box].mean() if bool(has_box.any()) else cost.new_zeros(())
    return torch.where(has_box, cost, mean)
