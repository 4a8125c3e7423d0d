"""Hungarian matching: one query an object at the least total cost (DETR, Carion et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor

from hipie.box_ops import box_cxcywh_to_xyxy, generalized_box_iou
from hipie.modeling.criterion.ignored_pixels import labelled_points
from hipie.modeling.criterion.losses import (
    focal_class_cost,
    pairwise_cross_entropy,
    pairwise_dice,
)
from hipie.modeling.criterion.point_sampling import point_sample_masks
from hipie.modeling.matcher.matching import MATCHER_REGISTRY, CostMatcher, Pairs
from hipie.structures import BatchedTargets, LayerOutput, MaskContext

HIGHEST = 1e30


@dataclass(frozen=True)
class CostWeights:
    """Weights of the matching cost; the defaults are those of the encoder's proposals."""

    class_: float = 2.0
    box: float = 5.0
    giou: float = 2.0
    mask: float = 0.0
    dice: float = 0.0


@MATCHER_REGISTRY.register()
class HungarianMatcher(CostMatcher):
    """Match every object with one query.

    Where objects have no masks, the costs of masks are those of their labelled points, or 0; boxes
    of scribbles are the extents of their pixels.

    Args:
        weights: of the cost terms.
        num_points: random points at which masks are compared; 0 = masks do not count.
        stuff_boxes: whether boxes of stuff count; if not, their cost is the mean of the things'.
        things_only: whether stuff is left without a query.
    """

    @configurable
    def __init__(
        self,
        weights: CostWeights,
        num_points: int = 0,
        *,
        stuff_boxes: bool = True,
        things_only: bool = False,
    ) -> None:
        self.weights = weights
        self.num_points = num_points
        self.stuff_boxes = stuff_boxes
        self.things_only = things_only

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments of the stuff decoder's matcher: `LOSS.STUFF_COSTS`.

        By default the costs are the loss weights (MaskDINO).
        """
        node = cfg.MODEL.HIPIE
        weights, costs = node.LOSS.STUFF_WEIGHTS, node.LOSS.STUFF_COSTS
        names = ("CLASS", "BOX", "GIOU", "MASK", "DICE")
        values = [weights[name] if costs[name] is None else costs[name] for name in names]
        return {
            "weights": CostWeights(*values),
            "num_points": node.LOSS.NUM_POINTS,
            "stuff_boxes": node.STUFF.BOX_LOSS,
        }

    @classmethod
    def for_branch(cls, cfg: CfgNode, branch: str) -> HungarianMatcher:
        """Build the matcher of a decoder.

        Args:
            cfg: reads `MODEL.HIPIE.LOSS`.
            branch: "STUFF", or "THING" for a matcher of `LOSS.THING_COSTS` that leaves stuff out.
        """
        if branch == "STUFF":
            return cls(cfg)
        loss = cfg.MODEL.HIPIE.LOSS
        costs = loss.THING_COSTS
        weights = CostWeights(costs.CLASS, costs.BOX, costs.GIOU, costs.MASK, costs.DICE)
        compares_masks = weights.mask > 0 or weights.dice > 0
        return cls(weights, loss.NUM_POINTS if compares_masks else 0, things_only=True)

    @torch.no_grad()
    def costs(
        self,
        layers: Sequence[LayerOutput],
        targets: BatchedTargets,
        masks: MaskContext | None = None,
    ) -> list[Tensor]:
        """Matching costs [Q of all layers, N] of every image; see `CostMatcher`.

        All layers of an image are compared at the same points.
        """
        logits = torch.cat([layer.require_logits().detach() for layer in layers], dim=1)
        boxes = torch.cat([layer.boxes.detach() for layer in layers], dim=1)
        costs = []
        for image in range(targets.num_images):
            objects = targets.of_image(image)
            cost = matching_cost(
                logits[image],
                boxes[image],
                targets.boxes[objects],
                targets.positive_map[objects],
                self.weights,
                has_box=None if self.stuff_boxes else targets.is_thing[objects],
            )
            if masks is not None and self.num_points and cost.shape[1]:
                cost = cost + self._mask_cost(layers, targets, masks, image)
            costs.append(cost)
        return [*costs, targets.is_thing] if self.things_only else costs

    def _mask_cost(
        self,
        layers: Sequence[LayerOutput],
        targets: BatchedTargets,
        masks: MaskContext,
        image: int,
    ) -> Tensor:
        """Mask costs [Q of all layers, N] of an image."""
        objects = targets.of_image(image)
        points = torch.rand(1, self.num_points, 2, device=targets.boxes.device)
        index = torch.arange(objects.start, objects.stop, device=points.device)
        frame = None if masks.frames is None else masks.frames[image]
        on_targets = (
            points
            if frame is None
            else torch.stack([points[..., i] * share for i, share in enumerate(frame)], dim=-1)
        )
        point_targets = point_sample_masks(targets.masks, index, on_targets)
        labelled = None
        if targets.ignored is not None:
            labelled = labelled_points(targets.ignored, index.new_tensor([image]), on_targets)[0]
        logits = masks.head.logits_at_points(layers, masks.features[image], image, points[0])
        cost = torch.cat(
            [mask_cost(part, point_targets, self.weights, labelled) for part in logits]
        )
        if targets.supervision is None:
            return cost
        supervision = targets.supervision.select(index)
        cost = cost * supervision.has_mask
        if supervision.points.shape[1]:
            points = supervision.points.flatten(0, 1)
            parts = masks.head.logits_at_points(layers, masks.features[image], image, points)
            labels = supervision.point_labels
            cost = cost + self.weights.mask * torch.cat([point_cost(p, labels) for p in parts])
        return cost

    def assign(
        self, costs: Sequence[Tensor], num_queries: Sequence[int], targets: BatchedTargets
    ) -> list[list[Pairs]]:
        """Assign every object to a query at the least total cost; see `CostMatcher`."""
        pairs: list[list[Pairs]] = [[] for _ in num_queries]
        is_thing = None
        if self.things_only:
            *costs, is_thing = costs
        for image, cost in enumerate(costs):
            start = targets.starts[image]
            objects = torch.arange(cost.shape[1])
            if is_thing is not None:
                objects = is_thing[targets.of_image(image)].nonzero().flatten()
            for layer, part in enumerate(cost.split(list(num_queries))):
                query_index, target_index = assign(part[:, objects])
                pairs[layer].append((query_index, start + objects[target_index]))
        return pairs


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
        cost = cost + mask_cost(point_logits, point_targets, weights)
    return cost


def mask_cost(
    point_logits: Tensor,
    point_targets: Tensor,
    weights: CostWeights,
    labelled: Tensor | None = None,
) -> Tensor:
    """Compute the mask cost of every pair of a query and an object of one image.

    Args:
        point_logits: [Q, P] mask logits at shared points.
        point_targets: [N, P] ground-truth masks there, 0..1.
        weights: of the terms.
        labelled: [P] 1 for points with ground truth, 0 for the others; None = all have one.

    Returns:
        [Q, N] float32.
    """
    cross_entropy = pairwise_cross_entropy(point_logits, point_targets, labelled)
    dice = pairwise_dice(point_logits, point_targets, labelled)
    return weights.mask * cross_entropy + weights.dice * dice


def point_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean cross entropy of every query at the labelled points of every object.

    Args:
        logits: [Q, N P] mask logits at the points of all objects, object by object.
        labels: [N, P], 1, 0, or -1 for no label.

    Returns:
        [Q, N] float32; 0 for objects without a label.
    """
    logits = logits.float().unflatten(1, labels.shape)
    labelled = (labels >= 0).float()
    losses = (F.softplus(logits) - logits * labels) * labelled
    return losses.sum(dim=2) / labelled.sum(dim=1).clamp(min=1)


def assign(cost: Tensor) -> Pairs:
    """Solve the linear assignment problem.

    Costs that are not finite count as more expensive than all others.

    Args:
        cost: [Q, N].

    Returns:
        On the host: query index [n], rising, and object index [n], n = min(Q, N).
    """
    from scipy.optimize import linear_sum_assignment

    finite = cost.detach().cpu().double().nan_to_num(nan=HIGHEST, posinf=HIGHEST, neginf=HIGHEST)
    query_index, target_index = linear_sum_assignment(finite.numpy())
    return torch.from_numpy(query_index).long(), torch.from_numpy(target_index).long()


def _mean_where_without_box(cost: Tensor, has_box: Tensor) -> Tensor:
    """Replace the costs [Q, N] of objects without box by the mean of the others, else by 0."""
    count = has_box.sum() * cost.shape[0]
    mean = cost.masked_fill(~has_box, 0.0).sum() / count.clamp(min=1)
    return torch.where(has_box, cost, mean)
