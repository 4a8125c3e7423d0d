"""Prompts to masks: as many at a time as are alike, on an image that was encoded once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hipie.modeling.sam.predictor import SamImage
from hipie_interactive.prompts import Told


@dataclass(frozen=True)
class Answer:
    """SAM's mask for one prompt.

    Attributes:
        mask: [H, W] bool.
        score: SAM's estimate of its IoU with what was meant.
        logits: [h, w], what the next prompt of the same object starts from.
    """

    mask: Tensor
    score: float
    logits: Tensor


def answer_all(
    image: SamImage, prompts: Sequence[Told], earlier: Sequence[Tensor | None] = ()
) -> list[Answer]:
    """The mask of every prompt.

    A lone click gets three masks, of which the one with the best score is taken; anything else
    gets one. A prompt's own mask is told to SAM, or else the logits of its earlier answer.

    Args:
        image: encoded.
        prompts: of any forms; those of one form are answered together.
        earlier: `Answer.logits` of the same objects, or None; () = all None.
    """
    earlier = earlier or [None] * len(prompts)
    forms: dict[tuple[int, bool, bool, bool], list[int]] = defaultdict(list)
    for number, (one, before) in enumerate(zip(prompts, earlier, strict=True)):
        given = one.mask is not None or before is not None
        lone = one.ambiguous and before is None
        forms[len(one.points), one.box is not None, given, lone].append(number)
    answers: dict[int, Answer] = {}
    for (points, box, given, lone), numbers in forms.items():
        chosen = [prompts[number] for number in numbers]
        masks = _masks(image, chosen, [earlier[n] for n in numbers]) if given else None
        found = image.predict(
            points=np.stack([one.points for one in chosen]) if points else None,
            labels=np.stack([one.labels for one in chosen]) if points else None,
            boxes=np.stack([one.box for one in chosen]) if box else None,
            masks=masks,
            multimask=lone,
        ).best()
        for place, number in enumerate(numbers):
            answers[number] = Answer(
                found.masks[place, 0],
                float(found.scores[place, 0]),
                found.low_resolution[place, 0],
            )
    return [answers[number] for number in range(len(prompts))]


def _masks(image: SamImage, prompts: list[Told], earlier: list[Tensor | None]) -> Tensor:
    """[N, h, w] logits to start from."""
    return torch.stack(
        [
            before
            if one.mask is None
            else image.mask_prompts(torch.from_numpy(one.mask)[None])[0, 0]
            for one, before in zip(prompts, earlier, strict=True)
        ]
    )
