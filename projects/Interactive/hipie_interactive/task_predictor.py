"""Task predictor of `Segmenter.prompt`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hipie.segmentation import Segmentation
from hipie.task_predictors import (
    PreparedImage,
    TaskPredictor,
    encode_together_with_sam,
    encode_with_sam,
    register_task_predictor,
)
from hipie_interactive.meta_arch import InteractiveSAM
from hipie_interactive.modeling.prompts import Prompt
from hipie_interactive.session import parse_prompts, segment_encoded


@register_task_predictor("interactive")
class InteractivePredictor(TaskPredictor):
    """Segment the objects of prompts in images."""

    model_task = "interactive"
    model: InteractiveSAM

    def encode(self, image: PreparedImage) -> None:
        """Compute SAM's features of an image."""
        encode_with_sam(image, self.model.sam)

    def encode_together(self, images: Sequence[PreparedImage]) -> None:
        """Compute SAM's features of images of equal sizes in one pass."""
        encode_together_with_sam(images, self.model.sam)

    def predict(
        self,
        images: Sequence[PreparedImage],
        *,
        prompts: Sequence[Prompt | Mapping[str, Any]] = (),
        **request: Any,
    ) -> list[Segmentation]:
        """Segment images.

        Args:
            images: one or more.
            prompts: `Prompt`s, or their fields as dicts, in pixels of the full-size image.
            request: not used.

        Returns:
            Segments of kind "thing", one a prompt, in order.

        Raises:
            PromptError: if there is no prompt, or an invalid one.
        """
        parsed = parse_prompts(prompts)
        return [
            segment_encoded(encode_with_sam(image, self.model.sam), image.pixels, parsed)
            for image in images
        ]
