"""Task predictor of `Segmenter.prompt`: the object of each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hipie.segmentation import Segment, Segmentation
from hipie.task_predictors import (
    PreparedImage,
    TaskPredictor,
    encode_with_sam,
    register_task_predictor,
)
from hipie_interactive.predict import answer_all
from hipie_interactive.prompts import Prompt, PromptError, told
from hipie_interactive.session import as_prompt


@register_task_predictor("interactive")
class InteractivePredictor(TaskPredictor):
    """One segment of kind "thing" for every prompt, in their order."""

    model_task = "interactive"

    def encode(self, image: PreparedImage) -> None:
        """Compute SAM's features of the image."""
        encode_with_sam(image, self.model.sam)

    def predict(
        self, images: Sequence[PreparedImage], *, prompts: Sequence[Prompt | Mapping[str, Any]]
    ) -> list[Segmentation]:
        """Segment the objects of prompts.

        Args:
            images: one or more.
            prompts: `Prompt`s, or their fields as dicts, in pixels of the full-size image.

        Raises:
            PromptError: without a prompt, or for one that cannot be used.
        """
        parsed = [as_prompt(prompt) for prompt in prompts]
        if not parsed:
            raise PromptError("there is no prompt: name a click, a box, a scribble or a polygon")
        results = []
        for image in images:
            sam_prompts = [told(prompt, image.size) for prompt in parsed]
            predictions = answer_all(encode_with_sam(image, self.model.sam), sam_prompts)
            segments = [
                Segment(prompt.label, "thing", prediction.mask.cpu().numpy(), prediction.score)
                for prompt, prediction in zip(parsed, predictions, strict=True)
            ]
            results.append(Segmentation(image.pixels, segments))
        return results
