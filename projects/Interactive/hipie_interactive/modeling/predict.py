"""Masks of prompts by SAM, in batches of prompts of equal form."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hipie.modeling.sam.predictor import SamImage
from hipie_interactive.modeling.prompts import SamPrompt


@dataclass(frozen=True)
class MaskPrediction:
    """SAM's mask of one prompt.

    Attributes:
        mask: [H, W] bool.
        score: SAM's prediction of its IoU with the object.
        logits: [h, w] low-resolution logits, the mask prompt of the next step on the same object.
    """

    mask: Tensor
    score: float
    logits: Tensor


def predict_masks(
    image: SamImage, prompts: Sequence[SamPrompt], previous: Sequence[Tensor | None] = ()
) -> list[MaskPrediction]:
    """Predict the mask of every prompt.

    An ambiguous prompt gets three masks, of which the one with the highest score is taken; any
    other gets one. The mask prompt is a prompt's own mask, or else the logits of its previous step.

    Args:
        image: encoded.
        prompts: of any form; those of one form are predicted in a batch.
        previous: `MaskPrediction.logits` of the same objects, or None; () = all None.
    """
    previous = previous or [None] * len(prompts)
    indices_by_form: dict[tuple[int, bool, bool, bool], list[int]] = defaultdict(list)
    for index, (prompt, logits) in enumerate(zip(prompts, previous, strict=True)):
        has_mask = prompt.mask is not None or logits is not None
        multimask = prompt.ambiguous and logits is None
        form = (len(prompt.points), prompt.box is not None, has_mask, multimask)
        indices_by_form[form].append(index)
    predictions: dict[int, MaskPrediction] = {}
    for (points, has_box, has_mask, multimask), indices in indices_by_form.items():
        batch = [prompts[index] for index in indices]
        masks = _mask_prompts(image, batch, [previous[i] for i in indices]) if has_mask else None
        output = image.predict(
            points=np.stack([prompt.points for prompt in batch]) if points else None,
            labels=np.stack([prompt.labels for prompt in batch]) if points else None,
            boxes=np.array([prompt.box for prompt in batch]) if has_box else None,
            masks=masks,
            multimask=multimask,
        ).best()
        for row, index in enumerate(indices):
            predictions[index] = MaskPrediction(
                output.masks[row, 0],
                float(output.scores[row, 0]),
                output.low_resolution[row, 0],
            )
    return [predictions[index] for index in range(len(prompts))]


def _mask_prompts(
    image: SamImage, prompts: list[SamPrompt], previous: list[Tensor | None]
) -> Tensor:
    """Stack the mask prompts [N, h, w] of prompts that have a mask or previous logits."""
    logits = []
    for prompt, earlier in zip(prompts, previous, strict=True):
        if prompt.mask is not None:
            logits.append(image.mask_prompts(torch.from_numpy(prompt.mask)[None])[0, 0])
        elif earlier is not None:
            logits.append(earlier)
    return torch.stack(logits)
