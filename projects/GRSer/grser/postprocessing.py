"""Postprocessing of GRSer's logits to Detectron2's outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from grser.modeling.negative_rejection import MARGIN


@dataclass(frozen=True)
class InferenceConfig:
    """Rejection and output at inference; see `MODEL.GRSER.TEST`.

    Attributes:
        reject_negatives: give rejected images of a group an empty mask.
        reject_single_images: also reject for expressions about a single image.
        margin: m of the rejection.
        soft_masks: return probabilities instead of 0 and 1.
        return_heatmaps: outputs of all groups have `heatmaps`.
        images_per_forward: number of images that are encoded and decoded at once.
    """

    reject_negatives: bool = True
    reject_single_images: bool = False
    margin: float = MARGIN
    soft_masks: bool = False
    return_heatmaps: bool = False
    images_per_forward: int = 8


def postprocess_image(
    logits: Tensor,
    size: tuple[int, int],
    *,
    positive: bool | None,
    score: float | None,
    soft_masks: bool = False,
) -> dict[str, Any]:
    """Resize the logits of one image and apply the rejection.

    Args:
        logits: [2, h, w] of background and target.
        size: height and width of the output.
        positive: result of the rejection; None without rejection, when an image is positive if it
            has a foreground pixel, or always with `soft_masks`.
        score: score of the rejection; None: the mean probability inside the mask.
        soft_masks: return probabilities instead of 0 and 1.

    Returns:
        `sem_seg` [1, H, W] float, all 0 for rejected images, `score` and `positive`.
    """
    foreground = (logits[1] - logits[0]).float()
    foreground = F.interpolate(foreground[None, None], size, mode="bilinear", align_corners=False)
    probability, mask = foreground[0].sigmoid(), foreground[0] > 0
    if positive is None:
        positive = soft_masks or bool(mask.any())
    if score is None:
        score = float(probability[mask].mean()) if bool(mask.any()) else 0.0
    output = probability if soft_masks else mask.float()
    return {
        "sem_seg": output if positive else torch.zeros_like(output),
        "score": score,
        "positive": positive,
    }


def to_instances(output: dict[str, Any]) -> Instances:
    """Convert the output of an image to `Instances`: one instance, or none for an empty mask."""
    mask = output["sem_seg"] >= 0.5
    masks = mask if bool(mask.any()) else mask[:0]
    instances = Instances(tuple(mask.shape[-2:]))
    instances.pred_masks = masks
    instances.scores = torch.full((len(masks),), float(output["score"]), device=mask.device)
    instances.pred_classes = torch.zeros(len(masks), dtype=torch.long, device=mask.device)
    instances.pred_boxes = BitMasks(masks).get_bounding_boxes().to(mask.device)
    return instances
