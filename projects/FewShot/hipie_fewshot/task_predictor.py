"""Task predictor of `Segmenter.like`: what example masks show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hipie.segmentation import Segmentation
from hipie.task_predictors import PreparedImage, TaskPredictor, register_task_predictor
from hipie_fewshot.support_set import Example


@register_task_predictor("few_shot")
class FewShotPredictor(TaskPredictor):
    """One segment of kind "thing" for every label of the examples, in order of appearance."""

    model_task = "few_shot"

    def predict(
        self, images: Sequence[PreparedImage], *, examples: Sequence[Example | tuple[Any, ...]]
    ) -> list[Segmentation]:
        """Segment what examples show.

        Args:
            images: one or more.
            examples: `Example`s, or tuples that `Example.read` takes.

        Raises:
            ExampleError: without examples, or for one whose mask does not fit.
        """
        return [self.model.segment_like(image.pixels, examples) for image in images]
