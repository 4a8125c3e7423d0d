"""Mean teacher: the averaged weights annotate images, from which the model learns.

Liu et al., "Unbiased Teacher for Semi-Supervised Object Detection", ICLR 2021, with masks: the
teacher sees an image with weak augmentation, the student the same image with strong augmentation,
and objects of the teacher with a high score are the student's ground truth.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor, nn

from hipie.box_ops import masks_to_boxes
from hipie.engine.ema import ModelEMA
from hipie.errors import InputError

Inputs = list[dict[str, Any]]


class MeanTeacher:
    """Annotates the images of a batch that have no annotation.

    Args:
        model: not wrapped for several processes; see `HIPIE`.
        ema: its averaged weights.
        score_threshold: objects with a lower score are left out.
        weight: of the losses of the teacher's objects, a factor of their scores.
    """

    def __init__(
        self, model: nn.Module, ema: ModelEMA, score_threshold: float = 0.7, weight: float = 1.0
    ) -> None:
        self._model = model
        self._ema = ema
        self.score_threshold = score_threshold
        self.weight = weight

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module, ema: ModelEMA | None) -> MeanTeacher:
        """Build the teacher of `SEMI_SUPERVISED`.

        Raises:
            InputError: if there are no averaged weights, they are sharded, or a number is not in
                its range.
        """
        node = cfg.SEMI_SUPERVISED
        if ema is None or cfg.SOLVER.FSDP.ENABLED:
            other = "MODEL_EMA.ENABLED" if ema is None else "SOLVER.FSDP.ENABLED False"
            raise InputError(f"SEMI_SUPERVISED.ENABLED needs {other}")
        if not 0 <= node.SCORE_THRESHOLD <= 1 or not 0 <= node.WEIGHT <= 1:
            raise InputError(
                f"SEMI_SUPERVISED.SCORE_THRESHOLD {node.SCORE_THRESHOLD} and WEIGHT {node.WEIGHT} "
                "must be in 0 to 1"
            )
        return cls(model, ema, node.SCORE_THRESHOLD, node.WEIGHT)

    def __call__(self, batch: Inputs) -> Inputs:
        """Return a batch in which images with `teacher_image` have the teacher's objects.

        Images of which it finds no object stay without annotation.
        """
        if not any("teacher_image" in item for item in batch):
            return batch
        return [self._annotated(item) if "teacher_image" in item else item for item in batch]

    def _annotated(self, item: dict[str, Any]) -> dict[str, Any]:
        height, width = item["teacher_image"].shape[-2:]
        teacher_input = {"image": item["teacher_image"], "vocabulary": item["vocabulary"]}
        results = {"height": height, "width": width, "results": ("instances", "panoptic_seg")}
        was_training = self._model.training
        self._model.eval()
        try:
            with self._ema.applied(), torch.no_grad():
                (outputs,) = self._model([{**teacher_input, **results}])
        finally:
            self._model.train(was_training)
        masks, classes, scores = confident_objects(outputs, self.score_threshold)
        student = {key: value for key, value in item.items() if key != "teacher_image"}
        if not len(classes):
            return student
        instances = Instances((height, width))
        instances.gt_classes = classes.cpu()
        instances.gt_boxes = Boxes(masks_to_boxes(masks.cpu()))
        instances.gt_masks = BitMasks(masks.cpu())
        instances.gt_scores = scores.cpu() * self.weight
        student["instances"] = instances
        del student["unlabelled"]
        return student


def confident_objects(outputs: dict[str, Any], threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the objects of a result that are learned: instances, and stuff of the panoptic map.

    Args:
        outputs: `instances` and, if the model has it, `panoptic_seg`.
        threshold: lowest score of an instance or stuff segment; a segment without one has 1.

    Returns:
        Masks bool [N, H, W], classes [N] and scores [N].
    """
    instances = outputs["instances"]
    instances = instances[instances.scores >= threshold]
    masks = list(instances.pred_masks.bool())
    classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
    if "panoptic_seg" in outputs:
        segment_ids, segments = outputs["panoptic_seg"]
        for segment in segments:
            if not segment["isthing"] and segment.get("score", 1.0) >= threshold:
                masks.append(segment_ids == segment["id"])
                classes.append(int(segment["category_id"]))
                scores.append(float(segment.get("score", 1.0)))
    kept = [i for i, mask in enumerate(masks) if bool(mask.any())]
    if not kept:
        return instances.pred_masks[:0].bool(), torch.zeros(0, dtype=torch.long), torch.zeros(0)
    return (
        torch.stack([masks[i] for i in kept]),
        torch.tensor([classes[i] for i in kept]),
        torch.tensor([scores[i] for i in kept]),
    )
