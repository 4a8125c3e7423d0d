"""Parts: a map of them, and their masks inside the things that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST_PIXELS = 100


@dataclass(frozen=True)
class InstancePart:
    """A part of one instance.

    Attributes:
        instance: index of the instance.
        part: index of the class.
        mask: [H, W] bool, inside the instance's mask.
        score: 0..1, the part's share of all classes' scores, averaged over the mask.
    """

    instance: int
    part: int
    mask: Tensor
    score: float


def part_map(scores: Tensor) -> Tensor:
    """[H, W] int64, the class of every pixel, from semantic scores [K, H, W]."""
    return scores.argmax(0)


def parts_of_instances(
    scores: Tensor,
    masks: Tensor,
    labels: Sequence[str],
    wholes: Sequence[str | None],
    fewest_pixels: int = FEWEST_PIXELS,
) -> list[InstancePart]:
    """Share the parts out among the instances of their wholes.

    A pixel belongs to the class with the highest score. Where that class is a part, and an
    instance of its whole covers more than `fewest_pixels` of such pixels, these are the
    instance's part.

    Args:
        scores: [K, H, W] semantic scores of a vocabulary with parts.
        masks: [N, H, W] bool instance masks.
        labels: N class names.
        wholes: K names of wholes, None for what is no part.

    Returns:
        Parts by instance, then by class.
    """
    if not len(masks):
        return []
    classes = part_map(scores)
    share = scores.amax(0) / scores.sum(0).clamp(min=torch.finfo(scores.dtype).tiny)
    found: list[InstancePart] = []
    for instance, (mask, label) in enumerate(zip(masks.bool(), labels, strict=True)):
        own = [part for part, whole in enumerate(wholes) if whole == label]
        if not own:
            continue
        counts = torch.bincount(classes[mask], minlength=len(wholes)).tolist()
        for part in own:
            if counts[part] > fewest_pixels:
                inside = mask & (classes == part)
                found.append(InstancePart(instance, part, inside, float(share[inside].mean())))
    return found
