"""Mask proposals of Matcher: SAM's masks of matched points, filtered by quality and stability.

Liu et al., "Matcher: Segment Anything with One Shot Using All-Purpose Feature Matching", ICLR 2024,
section 3.3.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from segment_anything.utils.amg import (
    batched_mask_to_box,
    build_point_grid,
    calculate_stability_score,
)
from torch import Tensor
from torchvision.ops import nms

from hipie.modeling.sam.predictor import SamImage

# Up to this number of points, all their combinations are prompts.
MAX_EXHAUSTIVE_POINTS = 8
PROMPT_BATCH_SIZE = 64
STABILITY_OFFSET = 1.0


@dataclass(frozen=True)
class ProposalSettings:
    """Settings of the mask proposals.

    Attributes:
        points: smallest and largest number of points in a prompt.
        draws: prompts drawn for each number of points.
        centres: replace the points by this number of k-means centres; 0 = keep them.
        grid: rows and columns of a grid of single-point prompts; 0 = no grid.
        three_masks: use three of SAM's masks a prompt instead of one (never for the grid).
        quality, grid_quality: lowest IoU predicted by SAM, for matched points and the grid.
        stability, grid_stability: lowest stability score, likewise.
        nms: IoU threshold of the non-maximum suppression of mask boxes.
    """

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


def generate_proposals(
    image: SamImage, points: np.ndarray, settings: ProposalSettings, seed: int
) -> Tensor:
    """Generate mask proposals from matched points.

    Args:
        image: encoded query image.
        points: [M, 2] x and y of the matched patches.
        settings: prompts and thresholds.
        seed: of the random prompts.

    Returns:
        [N, H, W] bool, sorted by SAM's predicted IoU; N may be 0.
    """
    kept = [
        _filtered_masks(
            image, prompts[:, None], False, settings.grid_quality, settings.grid_stability
        )
        for prompts in _batches(_grid_points(image.size, settings.grid))
    ]
    if settings.centres:
        points = cluster_centres(points, settings.centres, seed)
    for subsets in draw_subsets(points, settings.points, settings.draws, seed):
        for prompts in _batches(subsets):
            kept.append(
                _filtered_masks(
                    image, prompts, settings.three_masks, settings.quality, settings.stability
                )
            )
    masks, scores = (torch.cat(parts) for parts in zip(*kept, strict=True))
    boxes = batched_mask_to_box(masks).float()
    return masks[nms(boxes, scores, settings.nms)]


def draw_subsets(
    points: np.ndarray, sizes: tuple[int, int], draws: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield subsets [D, k, 2] of points for each size k.

    Args:
        points: [M, 2]. Up to 8 points, all subsets are taken, else `draws` random ones.
        sizes: smallest and largest k; larger ones than M are skipped.
        draws: D for more than 8 points.
        seed: of the random draws.
    """
    generator = random.Random(seed)
    count = len(points)
    for size in range(min(sizes[0], count), min(sizes[1], count) + 1):
        if count > MAX_EXHAUSTIVE_POINTS:
            subsets = [generator.sample(range(count), size) for _ in range(draws)]
        else:
            subsets = [list(subset) for subset in combinations(range(count), size)]
        yield points[np.array(subsets)]


def cluster_centres(points: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Compute at most `count` k-means++ centres of points [M, 2], rounded down to pixels."""
    from scipy.cluster.vq import kmeans2

    if len(points) <= count:
        return points
    centres, assignment = kmeans2(points.astype(float), count, minit="++", rng=seed)
    rounded: np.ndarray = centres[np.unique(assignment)].astype(int)
    return rounded


def _filtered_masks(
    image: SamImage, prompts: np.ndarray, multimask: bool, quality: float, stability: float
) -> tuple[Tensor, Tensor]:
    """Predict masks [n, H, W] and scores [n] of prompts [N, k, 2] that pass both thresholds."""
    labels = np.ones(prompts.shape[:2], int)
    predicted = image.predict(points=prompts, labels=labels, multimask=multimask)
    model = image.sam.model
    scores, low = predicted.scores.flatten(), predicted.low_resolution.flatten(0, 1)
    kept = scores > quality if quality > 0 else torch.ones_like(scores, dtype=torch.bool)
    scores, low = scores[kept], low[kept]
    logits = model.postprocess_masks(low[:, None], image.input_size, image.size)[:, 0]
    if stability > 0 and len(logits):
        stable = calculate_stability_score(logits, model.mask_threshold, STABILITY_OFFSET)
        scores, logits = scores[stable >= stability], logits[stable >= stability]
    return logits > model.mask_threshold, scores


def _grid_points(size: tuple[int, int], side: int) -> np.ndarray:
    if not side:
        return np.zeros((0, 2))
    grid: np.ndarray = build_point_grid(side) * (size[1], size[0])
    return grid


def _batches(prompts: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(prompts), PROMPT_BATCH_SIZE):
        yield prompts[start : start + PROMPT_BATCH_SIZE]
