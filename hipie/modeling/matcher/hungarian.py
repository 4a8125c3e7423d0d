"""Hungarian matching: one query an object at the least total cost (DETR, Carion et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from hipie.box_ops import box_cxcywh_to_xyxy, generalized_box_iou
from hipie.modeling.criterion.checks import require_finite
from hipie.modeling.criterion.losses import (
    focal_class_cost,
    pairwise_cross_entropy,
    pairwise_dice,
)
from hipie.modeling.criterion.point_sampling import point_sample_masks
from hipie.modeling.matcher.matching import MATCHER_REGISTRY, Matching
from hipie.structures import BatchedTargets, LayerOutput, MaskContext


@dataclass(frozen=True)
class CostWeights:
    """Weights of the matching cost; the defaults are those of the encoder's proposals."""

    class_: float = 2.0
    box: float = 5.0
    giou: float = 2.0
    mask: float = 0.0
    dice: float = 0.0


@MATCHER_REGISTRY.register()
class HungarianMatcher:
    """Match every object with one query.

    Args:
        weights: of the cost terms.
        num_points: random points at which masks are compared; 0 = masks do not count.
        stuff_boxes: whether boxes of stuff count; if not, their cost is the mean of the things'.
    """

    @configurable
    def __init__(
        self, weights: CostWeights, num_points: int = 0, *, stuff_boxes: bool = True
    ) -> None:
        self.weights = weights
        self.num_points = num_points
        self.stuff_boxes = stuff_boxes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments: the costs are the loss weights of stuff (MaskDINO)."""
        loss = cfg.MODEL.HIPIE.LOSS
        weights = loss.STUFF_WEIGHTS
        return {
            "weights": CostWeights(
                weights.CLASS, weights.BOX, weights.GIOU, weights.MASK, weights.DICE
            ),
            "num_points": loss.NUM_POINTS,
        }

    @torch.no_grad()
    def __call__(
        self,
        layer: LayerOutput,
        targets: BatchedTargets,
        masks: MaskContext | None = None,
        name: str = "a layer",
    ) -> Matching:
        """See `hipie.modeling.matcher.matching.Matcher`.

        Raises:
            NonFiniteError: naming `name`, if a cost or a mask is nan or infinite.
        """
        pairs = []
        for image in range(targets.num_images):
            objects = targets.of_image(image)
            point_logits, point_targets = None, None
            if masks is not None and self.num_points:
                points = torch.rand(1, self.num_points, 2, device=targets.boxes.device)
                point_logits = self._logits_at(points[0], layer, image, masks)
                require_finite(point_logits, f"masks of {name}")
                index = torch.arange(objects.start, objects.stop, device=points.device)
                frame = 1.0 if masks.frames is None else masks.frames[image]
                point_targets = point_sample_masks(targets.masks, index, points * frame)
            cost = matching_cost(
                layer.require_logits()[image],
                layer.boxes[image],
                targets.boxes[objects],
                targets.positive_map[objects],
                self.weights,
                point_logits=point_logits,
                point_targets=point_targets,
                has_box=None if self.stuff_boxes else targets.is_thing[objects],
            )
            query_index, target_index = assign(cost, f"matching cost of {name}")
            pairs.append((query_index, objects.start + target_index))
        return Matching.concatenate(pairs)

    @staticmethod
    def _logits_at(points: Tensor, layer: LayerOutput, image: int, masks: MaskContext) -> Tensor:
        """Mask logits of all queries of an image at points [P, 2]: [N, P]."""
        query_index = torch.arange(layer.boxes.shape[1], device=points.device)
        image_index = torch.full_like(query_index, image)
        return masks.head.logits(layer, masks.features, image_index, query_index, points)


@torch.no_grad()
def matching_cost(
    logits: Tensor,
    boxes: Tensor,
    target_boxes: Tensor,
    positive_map: Tensor,
    weights: CostWeights,
    *,
    point_logits: Tensor | None = None,
    point_targets: Tensor | None = None,
    has_box: Tensor | None = None,
) -> Tensor:
    """Compute the cost of every pair of a query and an object of one image.

    Args:
        logits: [Q, T].
        boxes: [Q, 4] cxcywh.
        target_boxes: [N, 4] cxcywh.
        positive_map: [N, T] bool.
        weights: of the terms.
        point_logits: [Q, P] mask logits at shared points, where masks count.
        point_targets: [N, P] ground-truth masks there, 0..1.
        has_box: [N] bool; the box costs of the others are the mean of those that have one.

    Returns:
        [Q, N] float32.
    """
    box_cost = torch.cdist(boxes.float(), target_boxes.float(), p=1)
    giou_cost = -generalized_box_iou(
        box_cxcywh_to_xyxy(boxes)[:, None], box_cxcywh_to_xyxy(target_boxes)
    )
    if has_box is not None:
        box_cost = _mean_where_without_box(box_cost, has_box)
        giou_cost = _mean_where_without_box(giou_cost, has_box)
    cost = weights.class_ * focal_class_cost(logits, positive_map)
    cost = cost + weights.box * box_cost + weights.giou * giou_cost
    if point_logits is not None and point_targets is not None:
        cost = cost + weights.mask * pairwise_cross_entropy(point_logits, point_targets)
        cost = cost + weights.dice * pairwise_dice(point_logits, point_targets)
    return cost


def assign(cost: Tensor, name: str = "matching cost") -> tuple[Tensor, Tensor]:
    """Solve the linear assignment problem.

    Args:
        cost: [Q, N].
        name: of the cost, for the error message.

    Returns:
        Query index [n], rising, and object index [n], n = min(Q, N).

    Raises:
        NonFiniteError: if a cost is nan or infinite.
    """
    require_finite(cost, name)
    query_index, target_index = linear_sum_assignment(cost.detach().cpu().numpy())
    return (
        torch.as_tensor(query_index, dtype=torch.long, device=cost.device),
        torch.as_tensor(target_index, dtype=torch.long, device=cost.device),
    )


def _mean_where_without_box(cost: Tensor, has_box: Tensor) -> Tensor:
    mean = cost[:, has_box].mean() if bool(has_box.any()) else cost.new_zeros(())
    return torch.where(has_box, cost, mean)
