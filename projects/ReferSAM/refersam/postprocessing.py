"""Postprocessing of mask logits to Detectron2's `Instances`."""

from __future__ import annotations

import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

from hipie.modeling.postprocessing.referring_inference import expression_instances

# Side of the square at which the pixels of a mask are counted.
REFERENCE_SIDE = 480


def referring_inference(
    logits: Tensor, output_size: tuple[int, int], no_target_pixels: int = 0
) -> Instances:
    """Convert the mask logits of one expression to `Instances`.

    Args:
        logits: [H, W] at the size of the network's input, with threshold 0.
        output_size: (height, width) of the image.
        no_target_pixels: a mask with fewer pixels, counted at 480x480, is cleared.

    Returns:
        `Instances` with `pred_masks` [1, height, width] bool, `pred_boxes`, `scores` (the mean
        probability inside the mask) and `pred_classes` 0; without any instance if the mask is
        empty or was cleared.
    """
    logits = logits.float()
    num_pixels = (logits >= 0).float().mean() * REFERENCE_SIDE**2
    if logits.shape != output_size:
        logits = F.interpolate(logits[None, None], size=output_size, mode="bilinear")[0, 0]
    mask = logits >= 0
    is_cleared = bool(num_pixels < no_target_pixels)
    return expression_instances(logits.sigmoid(), mask & (not is_cleared))
