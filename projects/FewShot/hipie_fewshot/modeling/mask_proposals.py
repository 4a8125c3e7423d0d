"""Matcher's second step: masks that SAM makes of matched points, and which of them can be used."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from segment_anything.utils.amg import (
    batched_mask_to_box,
    build_point_grid,
    calculate_stability_score,
)
from torch import Tensor
from torchvision.ops import nms

from hipie.modeling.sam.predictor import SamImage

# Of so few points all combinations are taken.
FEW = 8
PROMPTS_AT_ONCE = 64
STABILITY_OFFSET = 1.0


@dataclass(frozen=True)
class ProposalSettings:
    """See the keys of the same names in `hipie_fewshot.config`."""

    points: tuple[int, int] = (1, 6)
    draws: int = 64
    centres: int = 0
    grid: int = 64
    three_masks: bool = True
    quality: float = 0.85
    grid_quality: float = 0.88
    stability: float = 0.90
    grid_stability: float = 0.95
    nms: float = 0.65


def proposals(image: SamImage, points: np.ndarray, settings: ProposalSettings, seed: int) -> Tensor:
    """Masks [N, H, W] bool, the one that SAM thinks best first; N may be 0.

    Args:
        image: encoded.
        points: [M, 2] x and y of the matched patches.
        settings: see there.
        seed: of the draws.
    """
    kept = [
        _usable(image, prompts[:, None], False, settings.grid_quality, settings.grid_stability)
        for prompts in _batches(_grid(image.size, settings.grid))
    ]
    asked = centres(points, settings.centres, seed) if settings.centres else points
    for subsets in draw_subsets(asked, settings.points, settings.draws, seed):
        for prompts in _batches(subsets):
            given = (settings.three_masks, settings.quality, settings.stability)
            kept.append(_usable(image, prompts, *given))
    masks, scores = (torch.cat(parts) for parts in zip(*kept, strict=True))
    boxes = batched_mask_to_box(masks).float()
    return masks[nms(boxes, scores, settings.nms)]


def draw_subsets(
    points: np.ndarray, sizes: tuple[int, int], draws: int, seed: int
) -> Iterator[np.ndarray]:
    """Subsets [D, k, 2] for each size k: all of few points, else so many at random."""
    generator = random.Random(seed)
    count = len(points)
    for size in range(min(sizes[0], count), min(sizes[1], count) + 1):
        if count > FEW:
            chosen = [generator.sample(range(count), size) for _ in range(draws)]
        else:
            chosen = list(combinations(range(count), size))
        yield points[np.array(chosen)]


def centres(points: np.ndarray, count: int, seed: int) -> np.ndarray:
    """At most so many centres of points by k-means++, in whole pixels."""
    if len(points) <= count:
        return points
    found, assigned = kmeans2(points.astype(float), count, minit="++", rng=seed)
    return found[np.unique(assigned)].astype(int)


def _usable(
    image: SamImage, prompts: np.ndarray, three: bool, quality: float, stability: float
) -> tuple[Tensor, Tensor]:
    """Masks [n, H, W] and scores [n] of prompts [N, k, 2] that pass both thresholds."""
    labels = np.ones(prompts.shape[:2], int)
    found = image.predict(points=prompts, labels=labels, multimask=three)
    model = image.sam.model
    scores, low = found.scores.flatten(), found.low_resolution.flatten(0, 1)
    kept = scores > quality if quality > 0 else torch.ones_like(scores, dtype=torch.bool)
    scores, low = scores[kept], low[kept]
    logits = model.postprocess_masks(low[:, None], image.input_size, image.size)[:, 0]
    if stability > 0 and len(logits):
        changes = calculate_stability_score(logits, model.mask_threshold, STABILITY_OFFSET)
        scores, logits = scores[changes >= stability], logits[changes >= stability]
    return logits > model.mask_threshold, scores


def _grid(size: tuple[int, int], side: int) -> np.ndarray:
    if not side:
        return np.zeros((0, 2))
    return build_point_grid(side) * (size[1], size[0])


def _batches(prompts: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        yield prompts[start : start + PROMPTS_AT_ONCE]
