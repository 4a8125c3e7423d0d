"""Instance inference: Detectron2's `Instances` from selected (query, class) pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import box_convert

from hipie.modeling.criterion.predictions import LayerPrediction
from hipie.modeling.postprocessing.mask_upsampling import Size, upsample_instance_masks


@dataclass(frozen=True)
class ImageFrame:
    """An image of a batch and its sizes.

    Attributes:
        index: of the image in the batch.
        input_size: (height, width) of the unpadded image as the model reads it.
        output_size: (height, width) of the results.
    """

    index: int
    input_size: Size
    output_size: Size


def query_mask_logits(prediction: LayerPrediction, queries: Tensor, frame: ImageFrame) -> Tensor:
    """[n, h, w] float32 mask logits of some queries of an image, at a quarter of the canvas."""
    return prediction.masks(torch.full_like(queries, frame.index), queries).float()


def instance_inference(
    prediction: LayerPrediction,
    queries: Tensor,
    scores: Tensor,
    classes: Tensor,
    frame: ImageFrame,
) -> Instances:
    """Build the instances of an image; those with an empty box are left out.

    Args:
        prediction: last decoder layer.
        queries: [n] query of each instance; a query may occur several times.
        scores: [n].
        classes: [n].
        frame: the image.

    Returns:
        Instances with `pred_boxes`, `scores`, `pred_classes` and `pred_masks` at the output size.
    """
    height, width = frame.output_size
    boxes = prediction.boxes[frame.index, queries].float()
    scale = boxes.new_tensor([width, height, width, height])
    absolute = Boxes(box_convert(boxes, "cxcywh", "xyxy") * scale)
    absolute.clip(frame.output_size)
    keep = absolute.nonempty()
    unique, inverse = torch.unique(queries[keep], return_inverse=True)
    mask_logits = query_mask_logits(prediction, unique, frame)[inverse]
    instances = Instances(frame.output_size)
    instances.pred_boxes = absolute[keep]
    instances.scores = scores[keep]
    instances.pred_classes = classes[keep]
    instances.pred_masks = upsample_instance_masks(mask_logits, frame.input_size, frame.output_size)
    return instances
