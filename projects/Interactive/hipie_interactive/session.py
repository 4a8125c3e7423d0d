"""Interactive segmentation of one image, in one call or step by step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hipie.data.image_io import ImageLike, image_file_name, to_rgb_array
from hipie.errors import describe
from hipie.modeling.sam.predictor import Sam, SamImage
from hipie.segmentation import Segment, Segmentation
from hipie_interactive.modeling.predict import MaskPrediction, predict_masks
from hipie_interactive.modeling.prompts import Prompt, PromptError, SamPrompt, to_sam_prompt


def segment(
    sam: Sam, image: ImageLike, prompts: Sequence[Prompt | Mapping[str, Any]]
) -> Segmentation:
    """Segment the object of every prompt; the image is encoded once.

    Args:
        sam: the model.
        image: see `hipie.data.image_io.to_rgb_array`.
        prompts: `Prompt`s, or their fields as dicts.

    Raises:
        PromptError: if there is no prompt, or an invalid one.
    """
    pixels = to_rgb_array(image)
    parsed = parse_prompts(prompts)
    # Prompts are checked before the image is encoded.
    height, width = pixels.shape[:2]
    for prompt in parsed:
        to_sam_prompt(prompt, (height, width))
    result = segment_encoded(sam.encode(pixels), pixels, parsed)
    return replace(result, file_name=image_file_name(image))


def parse_prompts(prompts: Sequence[Prompt | Mapping[str, Any]]) -> list[Prompt]:
    """Return prompts, built from their fields where they are mappings; one alone is a list of one.

    Raises:
        PromptError: if there is no prompt, or one with an unknown field.
    """
    if isinstance(prompts, Prompt | Mapping):
        return [Prompt.parse(prompts)]
    if isinstance(prompts, str | bytes) or not isinstance(prompts, Iterable):
        raise PromptError(f"prompts are a list of dicts, not {describe(prompts)}")
    parsed = [Prompt.parse(prompt) for prompt in prompts]
    if not parsed:
        raise PromptError("there is no prompt; pass a click, a box, a scribble or a polygon")
    return parsed


def segment_encoded(image: SamImage, pixels: np.ndarray, prompts: Sequence[Prompt]) -> Segmentation:
    """Segment the object of every prompt in an encoded image.

    Args:
        image: encoding of the image.
        pixels: [H, W, 3] uint8 RGB.
        prompts: one or more.

    Raises:
        PromptError: for an invalid prompt.
    """
    sam_prompts = [to_sam_prompt(prompt, image.size) for prompt in prompts]
    predictions = predict_masks(image, sam_prompts)
    return Segmentation(
        pixels,
        tuple(
            _to_segment(prompt.label, prediction)
            for prompt, prediction in zip(prompts, predictions, strict=True)
        ),
    )


class Session:
    """Interactive segmentation of one object, step by step.

    Each step adds to the prompts of the steps before, and SAM starts from the mask it predicted.

    Args:
        sam: the model.
        image: see `hipie.data.image_io.to_rgb_array`; it is encoded here, once.
        label: name of the segment.
    """

    def __init__(self, sam: Sam, image: ImageLike, label: str = "object") -> None:
        self._pixels = to_rgb_array(image)
        self._image: SamImage = sam.encode(self._pixels)
        self._label = label
        self._steps: list[tuple[SamPrompt, MaskPrediction]] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, prompt: Prompt | Mapping[str, Any]) -> Segmentation:
        """Add a prompt and return the resulting mask.

        Clicks add up; a new box or polygon replaces the one before.

        Raises:
            PromptError: if it is invalid or contradicts an earlier one; the session is unchanged.
        """
        last = self._steps[-1] if self._steps else None
        sam_prompt = to_sam_prompt(
            Prompt.parse(prompt), self._image.size, refinement=last is not None
        )
        if last:
            sam_prompt = last[0].merge(sam_prompt)
        previous = last[1].logits if last else None
        prediction = predict_masks(self._image, [sam_prompt], [previous])[0]
        self._steps.append((sam_prompt, prediction))
        return self.result()

    def undo(self) -> Segmentation:
        """Remove the last step and return the mask before it.

        Raises:
            PromptError: if there is no step.
        """
        if not self._steps:
            raise PromptError("there is no step to undo")
        self._steps.pop()
        return self.result()

    def result(self) -> Segmentation:
        """Return the current mask; no segment before the first step."""
        if not self._steps:
            return Segmentation(self._pixels, ())
        return Segmentation(self._pixels, (_to_segment(self._label, self._steps[-1][1]),))


def _to_segment(label: str, prediction: MaskPrediction) -> Segment:
    return Segment(label, "thing", prediction.mask.cpu().numpy(), prediction.score)
