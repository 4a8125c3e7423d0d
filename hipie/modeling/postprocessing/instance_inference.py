"""Instance inference: Detectron2's `Instances` from selected (query, class) pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from hipie.box_ops import box_cxcywh_to_xyxy
from hipie.modeling.postprocessing.mask_upsampling import upsample_instance_masks
from hipie.structures import ImageQueries, LayerOutput, Size


@dataclass(frozen=True)
class ImageFrame:
    """Sizes of an image.

    Attributes:
        input_size: (height, width) of the unpadded image as the model reads it.
        output_size: (height, width) of the results.
    """

    input_size: Size
    output_size: Size


class QueryMasks:
    """Mask logits of the queries of one image, each computed once.

    Args:
        queries: predictions of a decoder for one image.
    """

    def __init__(self, queries: ImageQueries) -> None:
        self._queries = queries
        boxes = queries.layer.boxes
        self._row = torch.full((boxes.shape[1],), -1, device=boxes.device)
        self._masks: Tensor | None = None

    @property
    def layer(self) -> LayerOutput:
        """Predictions of the queries, B = 1."""
        return self._queries.layer

    def __call__(self, queries: Tensor) -> Tensor:
        """Mask logits of different queries [n] -> [n, h, w] float32, at a quarter of the canvas."""
        missing = queries[self._row[queries] < 0]
        if self._masks is None:
            self._masks = self._queries.masks(missing)
            self._row[missing] = torch.arange(len(missing), device=missing.device)
            return self._masks
        if len(missing):
            self._row[missing] = len(self._masks) + torch.arange(
                len(missing), device=missing.device
            )
            self._masks = torch.cat([self._masks, self._queries.masks(missing)])
        return self._masks[self._row[queries]]


def instance_inference(
    masks: QueryMasks, queries: Tensor, scores: Tensor, classes: Tensor, frame: ImageFrame
) -> Instances:
    """Build the instances of an image; those with an empty box are left out.

    Args:
        masks: of the last decoder layer.
        queries: [n] query of each instance; a query may occur several times.
        scores: [n].
        classes: [n].
        frame: sizes of the image.

    Returns:
        Instances with `pred_boxes`, `scores`, `pred_classes` and `pred_masks` at the output size.
    """
    height, width = frame.output_size
    boxes = box_cxcywh_to_xyxy(masks.layer.boxes[0, queries])
    absolute = Boxes(boxes * boxes.new_tensor([width, height, width, height]))
    absolute.clip(frame.output_size)
    keep = absolute.nonempty()
    unique, inverse = torch.unique(queries[keep], return_inverse=True)
    mask_logits = masks(unique)[inverse]
    instances = Instances(frame.output_size)
    instances.pred_boxes = absolute[keep]
    instances.scores = scores[keep]
    instances.pred_classes = classes[keep]
    instances.pred_masks = upsample_instance_masks(mask_logits, frame.input_size, frame.output_size)
    return instances
