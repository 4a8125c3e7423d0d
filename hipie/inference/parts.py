"""Parts of instances, from a semantic map of parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_PART = 30


@dataclass(frozen=True)
class FoundPart:
    """A part inside an instance.

    Attributes:
        instance: index of the instance.
        part: index of the class.
        mask: [H, W] bool, inside the instance.
        score: the mean score of the class over the mask.
    """

    instance: int
    part: int
    mask: Tensor
    score: float


def parts_of_instances(
    scores: Tensor,
    instances: Tensor,
    labels: Sequence[str],
    wholes: Sequence[str | None],
    smallest: int = SMALLEST_PART,
) -> list[FoundPart]:
    """The parts whose whole is the instance's class and which the best class of a pixel names.

    Args:
        scores: [K, H, W] class scores of every pixel.
        instances: [N, H, W] bool.
        labels: N class names.
        wholes: K names, None for classes that are not parts.
        smallest: pixels that a part needs.
    """
    best = scores.argmax(0)
    found = []
    for index, (mask, label) in enumerate(zip(instances, labels, strict=True)):
        for part, whole in enumerate(wholes):
            if whole != label:
                continue
            inside = (best == part) & mask
            if int(inside.sum()) >= smallest:
                total = scores.sum(0)[inside].clamp(min=1e-6)
                score = float((scores[part][inside] / total).mean())
                found.append(FoundPart(index, part, inside, score))
    return found
