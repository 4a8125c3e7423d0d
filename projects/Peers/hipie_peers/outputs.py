"""Outputs in Detectron2's form from the masks that a network detected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import batched_nms

from hipie.box_ops import masks_to_boxes
from hipie.modeling.postprocessing.panoptic_inference import PanopticThresholds, panoptic_inference

Size = tuple[int, int]
# Logit of a pixel inside a binary mask, its negative outside.
BINARY_LOGIT = 10.0
ALL_OUTPUTS = ("instances", "panoptic_seg", "sem_seg")


@dataclass(frozen=True)
class Detections:
    """N detected objects of one image.

    Attributes:
        masks: [N, H, W] bool at the output size.
        boxes: [N, 4] xyxy in pixels of the output.
        scores: [N] in 0..1.
        classes: [N] long, index of the class.
    """

    masks: Tensor
    boxes: Tensor
    scores: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, rows: Tensor) -> Detections:
        """Return some of the detections, by indices or a mask."""
        return Detections(self.masks[rows], self.boxes[rows], self.scores[rows], self.classes[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[Detections], size: Size) -> Detections:
        """Join detections of the same image; none is an empty set for an output of this size."""
        if not parts:
            empty = torch.zeros(0)
            masks = torch.zeros(0, *size, dtype=torch.bool)
            return cls(masks, torch.zeros(0, 4), empty, empty.long())
        fields = [(part.masks, part.boxes, part.scores, part.classes) for part in parts]
        return cls(*(torch.cat(tensors) for tensors in zip(*fields, strict=True)))


def requested_outputs(item: dict[str, Any]) -> set[str]:
    """Return which of `ALL_OUTPUTS` an input asks for; all of them without `results`."""
    results = item.get("results")
    if results is None:
        return set(ALL_OUTPUTS)
    names = {"sem_seg" if name.startswith("sem_seg") else name for name in results}
    return names & set(ALL_OUTPUTS)


def suppress_duplicates(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """Return the indices of detections without duplicates in their class, best first.

    Args:
        boxes: [N, 4] xyxy.
        scores: [N].
        classes: [N].
        threshold: IoU above which the detection with the lower score is left out; 1 keeps all.
    """
    if threshold >= 1 or not len(scores):
        return scores.argsort(descending=True, stable=True)
    return batched_nms(boxes.float(), scores.float(), classes, threshold)


def to_instances(detections: Detections, size: Size) -> Instances:
    """Return the detections as `Instances` of the output's size."""
    instances = Instances(size)
    instances.pred_masks = detections.masks
    instances.pred_boxes = Boxes(detections.boxes)
    instances.scores = detections.scores
    instances.pred_classes = detections.classes
    return instances


def mask_instance(mask: Tensor, score: Tensor) -> Instances:
    """Return one mask [H, W] bool with its score as `Instances`; none if it is empty."""
    height, width = mask.shape
    masks = mask[None] if bool(mask.any()) else mask.new_zeros(0, height, width)
    boxes = masks_to_boxes(masks) if len(masks) else torch.zeros(0, 4, device=mask.device)
    scores = score.reshape(1)[: len(masks)].float()
    classes = torch.zeros(len(masks), dtype=torch.long, device=mask.device)
    return to_instances(Detections(masks, boxes.float(), scores, classes), (height, width))


def detection_outputs(
    detections: Detections,
    is_thing: Sequence[bool],
    size: Size,
    requested: set[str],
    overlap: float = 0.8,
) -> dict[str, Any]:
    """Compute the requested outputs from detections.

    Args:
        detections: of all classes.
        is_thing: [K]; stuff has no instances, and one segment a class.
        size: (height, width) of the outputs.
        requested: some of `ALL_OUTPUTS`.
        overlap: share of its own mask that a segment must win.

    Returns:
        `instances` of things; `panoptic_seg`, where a pixel belongs to the mask with the highest
        score; `sem_seg` [K, H, W], the highest score of the masks of a class over a pixel.
    """
    outputs: dict[str, Any] = {}
    things = torch.tensor(list(is_thing), dtype=torch.bool, device=detections.classes.device)
    if "instances" in requested:
        kept = things[detections.classes].nonzero().flatten()
        order = detections.scores[kept].argsort(descending=True, stable=True)
        outputs["instances"] = to_instances(detections.select(kept[order]), size)
    one_hot = F.one_hot(detections.classes, len(is_thing)) * detections.scores[:, None]
    if "panoptic_seg" in requested:
        logits = detections.masks.float().mul_(2 * BINARY_LOGIT).sub_(BINARY_LOGIT)
        thresholds = PanopticThresholds(object_mask=0.0, overlap=overlap)
        outputs["panoptic_seg"] = panoptic_inference(one_hot, logits, is_thing, thresholds)
    if "sem_seg" in requested:
        semantic = torch.zeros(len(is_thing), *size, device=detections.scores.device)
        for mask, score, index in zip(
            detections.masks, detections.scores, detections.classes.tolist(), strict=True
        ):
            semantic[index] = torch.maximum(semantic[index], mask * score)
        outputs["sem_seg"] = semantic
    return outputs
