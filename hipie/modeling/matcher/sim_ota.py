"""SimOTA matching (YOLOX, Ge et al. 2021) in the form of the thing decoder: k queries an object.

An object gets as many queries as the sum of its best IoUs. All details follow the published system,
including ties and the treatment of unmatched ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from hipie.box_ops import box_cxcywh_to_xyxy, box_iou, generalized_box_iou
from hipie.modeling.criterion.losses import focal_class_cost
from hipie.modeling.matcher.matching import MATCHER_REGISTRY, CostMatcher, Pairs
from hipie.structures import BatchedTargets, LayerOutput, MaskContext

MATCHED_COST = 100_000.0


@dataclass(frozen=True)
class SimOTACosts:
    """Constants of SimOTA; the defaults are those of the published system.

    Attributes:
        class_, giou: weights of the focal class cost and of -GIoU.
        off_center: cost of a query whose centre is not both in the object's box and in a window
            around its centre.
        outside: cost of a query whose centre is in no box and no window of any thing.
        center_radius: half the side of the window, in 0..1 of the image.
        num_candidates: of the largest IoUs with an object, whose sum is its number of queries; and
            the largest number.
    """

    class_: float = 1.0
    giou: float = 3.0
    off_center: float = 100.0
    outside: float = 10_000.0
    center_radius: float = 2.5 / 32
    num_candidates: int = 10


PUBLISHED_COSTS = SimOTACosts()


@MATCHER_REGISTRY.register()
class SimOTAMatcher(CostMatcher):
    """Match every thing with several queries; stuff is not matched.

    Args:
        weights: constants of the costs.
    """

    @configurable
    def __init__(self, weights: SimOTACosts = PUBLISHED_COSTS) -> None:
        self.weights = weights

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.HIPIE.LOSS.SIM_OTA`."""
        node = cfg.MODEL.HIPIE.LOSS.SIM_OTA
        return {
            "weights": SimOTACosts(
                node.CLASS,
                node.GIOU,
                node.OFF_CENTER,
                node.OUTSIDE,
                node.CENTER_RADIUS,
                node.NUM_CANDIDATES,
            )
        }

    @torch.no_grad()
    def costs(
        self,
        layers: Sequence[LayerOutput],
        targets: BatchedTargets,
        masks: MaskContext | None = None,
    ) -> list[Tensor]:
        """Costs and IoUs of every image, both [Q of all layers, N], and which objects are things.

        See `CostMatcher`; masks do not count.
        """
        logits = torch.cat([layer.require_logits().detach() for layer in layers], dim=1)
        boxes = torch.cat([layer.boxes.detach() for layer in layers], dim=1)
        costs: list[Tensor] = []
        for image in range(targets.num_images):
            objects = targets.of_image(image)
            costs += costs_and_ious(
                logits[image],
                boxes[image],
                targets.boxes[objects],
                targets.positive_map[objects],
                targets.is_thing[objects],
                self.weights,
            )
        return [*costs, targets.is_thing]

    def assign(
        self, costs: Sequence[Tensor], num_queries: Sequence[int], targets: BatchedTargets
    ) -> list[list[Pairs]]:
        """Assign queries to the things; see `CostMatcher`."""
        *costs, is_thing = costs
        pairs: list[list[Pairs]] = [[] for _ in num_queries]
        for image, (cost, iou) in enumerate(zip(costs[::2], costs[1::2], strict=True)):
            objects = targets.of_image(image)
            things = is_thing[objects].nonzero().flatten()
            layer_costs, layer_ious = (
                values[:, things].split(list(num_queries)) for values in (cost, iou)
            )
            for layer, of_layer in enumerate(zip(layer_costs, layer_ious, strict=True)):
                query_index, target_index = _assign(*of_layer, self.weights.num_candidates)
                pairs[layer].append((query_index, objects.start + things[target_index]))
        return pairs


@torch.no_grad()
def sim_ota(logits: Tensor, boxes: Tensor, target_boxes: Tensor, positive_map: Tensor) -> Pairs:
    """Compute SimOTA matching between the queries and the ground-truth boxes of one image.

    Args:
        logits: [Q, T], finite.
        boxes: [Q, 4] cxcywh, finite.
        target_boxes: [N, 4] cxcywh.
        positive_map: [N, T] bool.

    Returns:
        Query and object index of each pair, [n] and [n], by rising query; no query appears twice.
        Every object has a query unless there are too few.
    """
    is_thing = torch.ones(len(target_boxes), dtype=torch.bool, device=boxes.device)
    cost, iou = costs_and_ious(logits, boxes, target_boxes, positive_map, is_thing)
    return _assign(cost, iou, PUBLISHED_COSTS.num_candidates)


def costs_and_ious(
    logits: Tensor,
    boxes: Tensor,
    target_boxes: Tensor,
    positive_map: Tensor,
    is_thing: Tensor,
    weights: SimOTACosts = PUBLISHED_COSTS,
) -> tuple[Tensor, Tensor]:
    """Compute the matching cost and the IoU of every pair of a query and an object of one image.

    Args:
        logits: [Q, T], finite.
        boxes: [Q, 4] cxcywh, finite.
        target_boxes: [N, 4] cxcywh.
        positive_map: [N, T] bool.
        is_thing: [N] bool; other objects are not matched.
        weights: of the terms.

    Returns:
        Two tensors [Q, N] float32.
    """
    corners, target_corners = box_cxcywh_to_xyxy(boxes)[:, None], box_cxcywh_to_xyxy(target_boxes)
    center = boxes.float()[:, None, :2]
    in_box = (center > target_corners[:, :2]) & (center < target_corners[:, 2:])
    in_box = in_box.all(dim=-1)
    target_center = target_boxes.float()[:, :2]
    radius = weights.center_radius
    in_window = (center > target_center - radius) & (center < target_center + radius)
    in_window = in_window.all(dim=-1)
    outside = ~((in_box | in_window) & is_thing).any(dim=1, keepdim=True)
    cost = weights.class_ * focal_class_cost(logits, positive_map)
    cost = cost - weights.giou * generalized_box_iou(corners, target_corners)
    cost = cost + weights.off_center * ~(in_box & in_window)
    return cost + weights.outside * outside, box_iou(corners, target_corners)


def _assign(cost: Tensor, iou: Tensor, num_candidates: int) -> Pairs:
    """Pairs from costs and IoUs, both [Q, N]."""
    if 0 in cost.shape:
        empty = torch.zeros(0, dtype=torch.long, device=cost.device)
        return empty, empty
    candidates = min(num_candidates, len(cost))
    dynamic_k = iou.topk(candidates, dim=0).values.sum(dim=0).int().clamp(1, candidates)
    cheapest = cost.topk(candidates, dim=0, largest=False).indices
    selected = torch.arange(candidates, device=cost.device)[:, None] < dynamic_k
    match = torch.zeros_like(cost, dtype=torch.bool).scatter_(0, cheapest, selected)
    conflicting = match.sum(dim=1) > 1
    _resolve_conflicts(match, cost, conflicting)
    _match_unmatched_objects(match, cost, conflicting)
    query_index = match.any(dim=1).nonzero().flatten()
    return query_index, match[query_index].to(torch.uint8).argmax(dim=1)


def _resolve_conflicts(match: Tensor, cost: Tensor, conflicting: Tensor) -> None:
    """Keep only the cheapest object of each query in `conflicting` [Q], in place."""
    best = torch.zeros_like(match).scatter_(1, cost.argmin(dim=1, keepdim=True), True)
    match[conflicting] = best[conflicting]


def _match_unmatched_objects(match: Tensor, cost: Tensor, conflicting: Tensor) -> None:
    """Give every object without a query its cheapest unmatched one, in place.

    As published, only queries that had a conflict at first are resolved again; at most one round an
    object, so that it ends when there are fewer queries than objects.
    """
    for _ in range(match.shape[1]):
        unmatched = (~match.any(dim=0)).nonzero().flatten()
        if len(unmatched) == 0:
            return
        cost = cost + MATCHED_COST * match.any(dim=1, keepdim=True)
        match[cost[:, unmatched].argmin(dim=0), unmatched] = True
        if bool((match.sum(dim=1) > 1).any()):
            _resolve_conflicts(match, cost, conflicting)
