"""Softmax classification of queries: loss term, and matcher with its cost (MaskFormer).

Registered for `MODEL.HIPIE.LOSS.STUFF_TERMS` and `STUFF_MATCHER`. The last logit of a query is that
of no object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.criterion.losses import LOSS_REGISTRY, MatchedLayer
from hipie.modeling.matcher.hungarian import HungarianMatcher, matching_cost
from hipie.modeling.matcher.matching import MATCHER_REGISTRY
from hipie.structures import BatchedTargets, LayerOutput, MaskContext

NO_OBJECT_WEIGHT = 0.1


@LOSS_REGISTRY.register_term("ce", weight_key="CLASS", group="ce")
def class_cross_entropy_loss(matched: MatchedLayer) -> Tensor:
    """Mean cross entropy over all queries, in which a query of no object has the weight 0.1.

    The criterion divides by the number of objects (of denoising queries: of their copies), so the
    mean is multiplied by the number of pairs, by 1 at least.
    """
    logits, matching = matched.layer.require_logits().float(), matched.matching
    none = logits.shape[-1] - 1
    labels = logits.new_full(logits.shape[:2], none, dtype=torch.long)
    objects = matched.positive_map[matching.target_index].long().argmax(1)
    labels[matching.image_index, matching.query_index] = objects
    weights = torch.where(labels == none, NO_OBJECT_WEIGHT, 1.0)
    if matched.query_weights is not None:
        weights = weights * matched.query_weights
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    mean = (losses * weights.flatten()).sum() / weights.sum().clamp(min=NO_OBJECT_WEIGHT)
    return mean * max(len(matching), 1)


@MATCHER_REGISTRY.register()
class MaskClassificationMatcher(HungarianMatcher):
    """Hungarian matching whose class cost is minus the softmax probability of the object's class.

    Weights of boxes may be 0, for decoders without boxes.
    """

    @torch.no_grad()
    def costs(
        self,
        layers: Sequence[LayerOutput],
        targets: BatchedTargets,
        masks: MaskContext | None = None,
    ) -> list[Tensor]:
        """Matching costs [Q of all layers, N] of every image; see `CostMatcher`."""
        logits = torch.cat([layer.require_logits().detach() for layer in layers], dim=1)
        boxes = torch.cat([layer.boxes.detach() for layer in layers], dim=1)
        box_weights = replace(self.weights, class_=0.0)
        costs = []
        for image in range(targets.num_images):
            objects = targets.of_image(image)
            positive = targets.positive_map[objects]
            probability = logits[image].float().softmax(-1)
            cost = matching_cost(
                torch.zeros_like(probability),
                boxes[image],
                targets.boxes[objects],
                positive,
                box_weights,
                has_box=None if self.stuff_boxes else targets.is_thing[objects],
            )
            cost = cost - self.weights.class_ * probability @ positive.float().t()
            if masks is not None and self.num_points and cost.shape[1]:
                cost = cost + self._mask_cost(layers, targets, masks, image)
            costs.append(cost)
        return [*costs, targets.is_thing] if self.things_only else costs
