"""Task predictor of `Segmenter.like`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hipie.segmentation import Segment, Segmentation
from hipie.task_predictors import PreparedImage, TaskPredictor, register_task_predictor
from hipie_fewshot.support_set import Example, require_examples


@register_task_predictor("few_shot")
class FewShotPredictor(TaskPredictor):
    """Segment the objects of support examples in images."""

    model_task = "few_shot"

    def predict(
        self,
        images: Sequence[PreparedImage],
        *,
        examples: Sequence[Example | tuple[Any, ...]] = (),
        **request: Any,
    ) -> list[Segmentation]:
        """Segment images.

        Args:
            images: one or more query images.
            examples: `Example`s, or tuples of the arguments of `Example.read`.
            request: not used.

        Returns:
            Segments of kind "thing", one for each label of the examples in the order of their
            first appearance.

        Raises:
            ExampleError: if there are no examples, or a mask does not fit its image.
        """
        require_examples(examples)
        examples_by_label: dict[str, list[Example]] = {}
        for given in examples:
            example = given if isinstance(given, Example) else Example.read(*given)
            examples_by_label.setdefault(example.label, []).append(example)
        return [self._predict_image(image.pixels, examples_by_label) for image in images]

    def _predict_image(
        self, pixels: np.ndarray, examples_by_label: dict[str, list[Example]]
    ) -> Segmentation:
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        inputs = [{"image": tensor, "examples": support} for support in examples_by_label.values()]
        segments = []
        for label, output in zip(examples_by_label, self.model(inputs), strict=True):
            prediction = output["few_shot"]
            mask = prediction.mask.cpu().numpy()
            segments.append(Segment(label, "thing", mask, prediction.score))
        return Segmentation(pixels, tuple(segments))
