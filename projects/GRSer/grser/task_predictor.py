"""Task predictor of `Segmenter.refer_group`: one expression over a group of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hipie.segmentation import Segment, Segmentation
from hipie.task_predictors import PreparedImage, TaskPredictor, register_task_predictor


@register_task_predictor("group")
class GroupPredictor(TaskPredictor):
    """One segment of kind "expression" an image; empty where the image is rejected."""

    model_task = "group"

    def predict(self, images: Sequence[PreparedImage], *, expression: str) -> list[Segmentation]:
        """Segment the object that an expression describes, comparing all images.

        Args:
            images: the group, one or more.
            expression: the referring expression.
        """
        inputs = [image.inputs for image in images]
        group = {**inputs[0], "images": inputs, "expression": expression}
        with torch.no_grad():
            outputs = self.model([group])[0]
        results = []
        for image, output in zip(images, outputs, strict=True):
            mask = (output["sem_seg"][0] >= 0.5).cpu().numpy()
            segment = Segment(expression, "expression", mask, float(output["score"]))
            results.append(Segmentation(image.pixels, [segment]))
        return results
