"""Selection of Matcher's mask proposals by earth mover's distance, purity and coverage.

Liu et al., "Matcher: Segment Anything with One Shot Using All-Purpose Feature Matching", ICLR 2024,
section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from hipie_fewshot.modeling.optimal_transport import earth_mover_distance

EPSILON = 1e-6


@dataclass(frozen=True)
class SelectionSettings:
    """Settings of the mask selection.

    Attributes:
        score: weights a, b and exponent c of a * similarity + b * purity * coverage ** c.
        purity: lowest purity of a mask, unless all masks are below it.
        distance: highest distance (1 - score) of a merged mask.
        relative_distance: highest excess over the best mask's distance, as a fraction of the
            largest distance.
        merged: largest number of masks in the result.
    """

    score: tuple[float, float, float] = (1.0, 0.0, 0.0)
    purity: float = 0.02
    distance: float = 0.33
    relative_distance: float = 0.1
    merged: int = 9


@dataclass(frozen=True)
class MaskScores:
    """Scores of N mask proposals, each [N] float32.

    Attributes:
        similarity: 1 - earth mover's distance of the support object's patches to the mask's.
        purity: matched points in the mask per patch of the mask.
        coverage: fraction of the matched points inside the mask.
    """

    similarity: Tensor
    purity: Tensor
    coverage: Tensor


def score_masks(
    masks: Sequence[np.ndarray], points: np.ndarray, costs: np.ndarray, side: int
) -> MaskScores:
    """Score mask proposals on the square input.

    Args:
        masks: N of [S, S] bool.
        points: [M, 2] x and y of the matched patches.
        costs: [R, side * side] between the object's patches and the query image's.
        side: patches in a row.
    """
    rows = [_score_mask(mask, points, costs, side) for mask in masks]
    return MaskScores(*torch.tensor(rows, dtype=torch.float32).reshape(-1, 3).T)


def _score_mask(
    mask: np.ndarray, points: np.ndarray, costs: np.ndarray, side: int
) -> tuple[float, float, float]:
    area = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    # All patches stand in for those of an empty mask.
    patches = area > 0 if area.max() > 0 else np.ones_like(area, bool)
    inside = int(mask[points[:, 1], points[:, 0]].sum())
    similarity = 1 - earth_mover_distance(costs[:, patches.ravel()])
    return similarity, inside / int(patches.sum()) + EPSILON, inside / len(points) + EPSILON


def select_masks(scores: MaskScores, settings: SelectionSettings) -> tuple[list[int], float]:
    """Select the mask proposals that are merged into the result.

    Returns:
        Indices of the masks, best first, and the best one's score.
    """
    alpha, beta, gamma = settings.score
    total = alpha * scores.similarity + beta * scores.purity * scores.coverage**gamma
    min_purity = min(settings.purity, float(scores.purity.max()))
    pure = (scores.purity >= min_purity).nonzero().flatten()
    distances, order = (1 - total[pure]).sort()
    kept = distances < settings.distance
    kept[0] = True
    relative = (distances - distances[0]) / (distances[-1] + EPSILON)
    kept &= relative < settings.relative_distance
    selected = pure[order[kept]][: settings.merged].tolist()
    return selected, float(1 - distances[0])
