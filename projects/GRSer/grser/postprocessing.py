"""What GRSer answers about an image."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor


def image_answer(
    logits: Tensor,
    size: tuple[int, int],
    *,
    positive: bool | None,
    score: float | None,
    soft: bool = False,
) -> dict[str, Any]:
    """One image's answer at its own size.

    Args:
        logits: [2, h, w] of background and target, of the whole image.
        size: height and width of the answer.
        positive: what the rule said; None where it is not asked, and any pixel, or any grey, will
            do.
        score: how sure the rule is; None: the mean chance over the mask's pixels.
        soft: give chances instead of 0 and 1.

    Returns:
        `sem_seg` [1, H, W] float, exactly 0 where the image is rejected, `score` and `positive`.
    """
    margin = (logits[1] - logits[0]).float()
    margin = F.interpolate(margin[None, None], size, mode="bilinear", align_corners=False)[0]
    chance, mask = margin.sigmoid(), margin > 0
    if positive is None:
        positive = soft or bool(mask.any())
    if score is None:
        score = float(chance[mask].mean()) if bool(mask.any()) else 0.0
    shown = chance if soft else mask.float()
    return {
        "sem_seg": shown if positive else torch.zeros_like(shown),
        "score": score,
        "positive": positive,
    }


def as_instances(answer: dict[str, Any]) -> Instances:
    """An image's answer as ordinary referring has it: one instance, or none where it is empty."""
    mask = answer["sem_seg"] >= 0.5
    found = Instances(tuple(mask.shape[-2:]))
    kept = mask if bool(mask.any()) else mask[:0]
    found.pred_masks = kept
    found.scores = torch.full((len(kept),), float(answer["score"]), device=mask.device)
    found.pred_classes = torch.zeros(len(kept), dtype=torch.long, device=mask.device)
    found.pred_boxes = Boxes(_boxes(kept))
    return found


def _boxes(masks: Tensor) -> Tensor:
    """[n, H, W] of masks that are not empty -> [n, 4] x1, y1, x2, y2."""
    boxes = [
        [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        for ys, xs in (torch.nonzero(mask, as_tuple=True) for mask in masks)
    ]
    return torch.tensor(boxes, dtype=torch.float32, device=masks.device).reshape(-1, 4)
