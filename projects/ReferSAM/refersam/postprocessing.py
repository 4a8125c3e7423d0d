"""Mask logits -> what Detectron2's evaluators and the segmenter take."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Instances
from torch import Tensor

COUNTED_AT = 480


def answer(logits: Tensor, output_size: tuple[int, int], no_target_pixels: int = 0) -> Instances:
    """One sentence's answer.

    Args:
        logits: [H, W] at the network's size; 0 is the threshold.
        output_size: (height, width) of the image.
        no_target_pixels: a mask of fewer pixels, counted as if it had 480x480, is cleared.

    Returns:
        `Instances` with `pred_masks` [1, height, width] bool, `pred_boxes`, `scores` (mean
        probability inside the mask) and `pred_classes` 0; none of them if the mask is empty or
        was cleared.
    """
    logits = logits.float()
    counted = (logits >= 0).float().mean() * COUNTED_AT**2
    if logits.shape != output_size:
        logits = F.interpolate(logits[None, None], size=output_size, mode="bilinear")[0, 0]
    mask = logits >= 0
    rows = int(bool(mask.any()) and not bool(counted < no_target_pixels))
    found = Instances(output_size)
    found.pred_masks = mask[None][:rows]
    found.pred_boxes = BitMasks(found.pred_masks).get_bounding_boxes()
    inside = logits[mask].sigmoid() if rows else logits.new_zeros(0)
    found.scores = inside.mean()[None] if rows else inside
    found.pred_classes = torch.zeros(rows, dtype=torch.long, device=logits.device)
    return found
