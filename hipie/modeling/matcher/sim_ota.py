"""SimOTA (YOLOX, Ge et al. 2021), as the thing decoder uses it: several queries an object.

An object takes as many queries as its best overlaps sum to. Everything follows the published
system to the letter, ties and the treatment of leftover objects included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hipie.modeling.criterion.box_ops import giou, iou, to_corners
from hipie.modeling.criterion.focal import focal_class_cost

GIOU_WEIGHT = 3.0
OFF_CENTRE_PENALTY = 100.0
OUTSIDE_PENALTY = 10_000.0
TAKEN_PENALTY = 100_000.0
CENTRE_RADIUS = 2.5 / 32
CANDIDATES = 10


@torch.no_grad()
def sim_ota(
    token_logits: Tensor, boxes: Tensor, object_boxes: Tensor, positive_map: Tensor
) -> tuple[Tensor, Tensor]:
    """Give the queries of one image to its objects.

    Args:
        token_logits: [Q, T], finite.
        boxes: [Q, 4] cxcywh, finite.
        object_boxes: [N, 4] cxcywh.
        positive_map: [N, T] bool.

    Returns:
        Query and object of each pair, [n] and [n], by rising query; no query appears twice. Every
        object has a query unless there are too few.
    """
    if len(object_boxes) == 0 or len(boxes) == 0:
        nothing = torch.zeros(0, dtype=torch.long, device=boxes.device)
        return nothing, nothing
    corners, object_corners = to_corners(boxes)[:, None], to_corners(object_boxes)
    cost = _cost(token_logits, boxes, object_boxes, positive_map)
    return _assign(cost, iou(corners, object_corners))


def _cost(
    token_logits: Tensor, boxes: Tensor, object_boxes: Tensor, positive_map: Tensor
) -> Tensor:
    corners, object_corners = to_corners(boxes)[:, None], to_corners(object_boxes)
    centre = boxes.float()[:, None, :2]
    in_box = (centre > object_corners[:, :2]) & (centre < object_corners[:, 2:])
    in_box = in_box.all(dim=-1)
    middle = object_boxes.float()[:, :2]
    in_window = (centre > middle - CENTRE_RADIUS) & (centre < middle + CENTRE_RADIUS)
    in_window = in_window.all(dim=-1)
    outside = ~(in_box | in_window).any(dim=1, keepdim=True)
    cost = focal_class_cost(token_logits, positive_map)
    cost = cost - GIOU_WEIGHT * giou(corners, object_corners)
    cost = cost + OFF_CENTRE_PENALTY * ~(in_box & in_window)
    return cost + OUTSIDE_PENALTY * outside


def _assign(cost: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs from costs and overlaps, both [Q, N]."""
    candidates = min(CANDIDATES, len(cost))
    wanted = overlap.topk(candidates, dim=0).values.sum(dim=0).int().clamp(1, candidates)
    cheapest = cost.topk(candidates, dim=0, largest=False).indices
    chosen = torch.arange(candidates, device=cost.device)[:, None] < wanted
    match = torch.zeros_like(cost, dtype=torch.bool).scatter_(0, cheapest, chosen)
    torn = match.sum(dim=1) > 1
    _keep_cheapest(match, cost, torn)
    _serve_leftovers(match, cost, torn)
    query = match.any(dim=1).nonzero().flatten()
    return query, match[query].to(torch.uint8).argmax(dim=1)


def _keep_cheapest(match: Tensor, cost: Tensor, torn: Tensor) -> None:
    """Each query of `torn` [Q] stays with the object that is cheapest to it, in place."""
    best = torch.zeros_like(match).scatter_(1, cost.argmin(dim=1, keepdim=True), True)
    match[torn] = best[torn]


def _serve_leftovers(match: Tensor, cost: Tensor, torn: Tensor) -> None:
    """Give every object without a query its cheapest free one, in place.

    Only queries that were torn at first are settled again, as published; at most one round an
    object, so that it ends when there are fewer queries than objects.
    """
    for _ in range(match.shape[1]):
        left = (~match.any(dim=0)).nonzero().flatten()
        if len(left) == 0:
            return
        cost = cost + TAKEN_PENALTY * match.any(dim=1, keepdim=True)
        match[cost[:, left].argmin(dim=0), left] = True
        if bool((match.sum(dim=1) > 1).any()):
            _keep_cheapest(match, cost, torn)
