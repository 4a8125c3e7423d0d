"""CutLER's drop loss as criteria of HIPIE's decoders.

Wang, Girdhar, Yu, Misra, "Cut and Learn for Unsupervised Object Detection and Instance
Segmentation", CVPR 2023, section 3.3 and equation 3: pseudo masks miss objects, so that a
prediction that overlaps none of them may be right, and is not punished.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from hipie.box_ops import box_cxcywh_to_xyxy, box_iou
from hipie.errors import InputError
from hipie.modeling.criterion.build import CRITERION_REGISTRY, Criterion
from hipie.modeling.criterion.losses import MatchedLayer
from hipie.modeling.criterion.stuff_criterion import StuffCriterion
from hipie.modeling.criterion.thing_criterion import ThingCriterion


def drop_weights(boxes: Tensor, objects: Tensor, threshold: float) -> Tensor:
    """Compute the weights of predictions of one image, 0 or 1.

    Args:
        boxes: [Q, 4] predicted, xyxy.
        objects: [M, 4], xyxy.
        threshold: predictions whose largest IoU is not above it have the weight 0.

    Returns:
        [Q] float32; all 1 without objects.
    """
    if not len(objects):
        return boxes.new_ones(len(boxes), dtype=torch.float32)
    return (box_iou(boxes[:, None].float(), objects.float()).amax(1) > threshold).float()


@dataclass(frozen=True)
class DropLossLayer(MatchedLayer):
    """Matched layer whose unmatched queries far from all objects have no class loss.

    Attributes:
        drop_iou: see `drop_weights`.
    """

    drop_iou: float = 0.01

    @cached_property
    def query_weights(self) -> Tensor:
        """[B, Q], 0 for queries without a pair that are dropped, or whose box is ignored."""
        boxes = box_cxcywh_to_xyxy(self.layer.boxes.detach())
        objects = box_cxcywh_to_xyxy(self.targets.boxes)
        weights = torch.stack(
            [
                drop_weights(predicted, objects[self.targets.of_image(image)], self.drop_iou)
                for image, predicted in enumerate(boxes)
            ]
        )
        weights[self.matching.image_index, self.matching.query_index] = 1.0
        known = super().query_weights
        return weights if known is None else weights * known


class DropLossCriterion(Criterion):
    """Drop loss in all layers of a criterion that is the other base class, proposals included.

    Args:
        drop_iou: MODEL.UNSUPERVISED.DROP_LOSS_IOU.
        arguments: those of the other base class.
    """

    @configurable
    def __init__(self, *, drop_iou: float = 0.01, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.drop_iou = drop_iou

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.HIPIE.LOSS` and `MODEL.UNSUPERVISED`.

        Raises:
            InputError: if the threshold is no IoU.
        """
        threshold = float(cfg.MODEL.UNSUPERVISED.DROP_LOSS_IOU)
        if not 0 <= threshold < 1:
            raise InputError(
                f"MODEL.UNSUPERVISED.DROP_LOSS_IOU is {threshold}; it has to be at least 0 and "
                "below 1"
            )
        base: Any = super()
        return {**base.from_config(cfg), "drop_iou": threshold}

    def matched_layer(self, **values: Any) -> MatchedLayer:
        """Build the pairs of a layer, without losses of far unmatched queries."""
        return DropLossLayer(**values, drop_iou=self.drop_iou)


@CRITERION_REGISTRY.register()
class DropLossStuffCriterion(DropLossCriterion, StuffCriterion):
    """`StuffCriterion` with CutLER's drop loss."""


@CRITERION_REGISTRY.register()
class DropLossThingCriterion(DropLossCriterion, ThingCriterion):
    """`ThingCriterion` with CutLER's drop loss."""
