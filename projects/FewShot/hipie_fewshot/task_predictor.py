"""Task predictor of `Segmenter.like`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hipie.segmentation import Segment, Segmentation
from hipie.task_predictors import PreparedImage, TaskPredictor, register_task_predictor
from hipie_fewshot.meta_arch import FewShot
from hipie_fewshot.support_set import Example, require_examples


@register_task_predictor("few_shot")
class FewShotPredictor(TaskPredictor):
    """Segment the objects of support examples in images."""

    model_task = "few_shot"
    model: FewShot

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
        if isinstance(examples, Example):
            examples = [examples]
        examples = list(examples or ())
        require_examples(examples)
        examples_by_label: dict[str, list[Example]] = {}
        for example in map(Example.parse, examples):
            examples_by_label.setdefault(example.label, []).append(example)
        return [self._predict_image(image, examples_by_label) for image in images]

    def encode(self, image: PreparedImage) -> None:
        """Compute the method's encoding of a query image."""
        self._encoded(image)

    @torch.no_grad()
    def _encoded(self, image: PreparedImage) -> Any:
        """Return the method's encoding of a query image, computed once."""
        return image.cached("few_shot_query", lambda: self.model.method.encode(image.pixels))

    @torch.no_grad()
    def _predict_image(
        self, image: PreparedImage, examples_by_label: dict[str, list[Example]]
    ) -> Segmentation:
        query = self._encoded(image)
        segments = []
        for label, examples in examples_by_label.items():
            prediction = self.model.method.predict_encoded(query, examples)
            mask = prediction.mask.cpu().numpy()
            segments.append(Segment(label, "thing", mask, prediction.score))
        return Segmentation(image.pixels, tuple(segments))
