"""Task predictor of `Segmenter.refer_group`: one expression over a group of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hipie.segmentation import Heatmaps, Segment, Segmentation
from hipie.task_predictors import PreparedImage, TaskPredictor, register_task_predictor


@register_task_predictor("group")
class GroupPredictor(TaskPredictor):
    """One segment of kind "expression" an image; empty where the image is rejected."""

    model_task = "group"

    def predict(
        self, images: Sequence[PreparedImage], *, expression: str, heatmaps: bool = False
    ) -> list[Segmentation]:
        """Segment the object that an expression describes, comparing all images.

        Args:
            images: the group, one or more.
            expression: the referring expression.
            heatmaps: return the heatmaps of every image as well.
        """
        inputs = [image.inputs for image in images]
        group = {**inputs[0], "images": inputs, "expression": expression, "heatmaps": heatmaps}
        with torch.no_grad():
            outputs = self.model([group])[0]
        results = []
        for image, output in zip(images, outputs, strict=True):
            mask = (output["sem_seg"][0] >= 0.5).cpu().numpy()
            segment = Segment(expression, "expression", mask, float(output["score"]))
            maps = _to_arrays(output["heatmaps"]) if heatmaps else None
            results.append(Segmentation(image.pixels, [segment], heatmaps=maps))
        return results


def _to_arrays(heatmaps: dict[str, Any]) -> Heatmaps:
    sources = heatmaps["sources"]
    return Heatmaps(
        heatmaps["language"].cpu().numpy(),
        heatmaps["visual"].cpu().numpy(),
        () if sources is None else tuple(sources.tolist()),
    )
