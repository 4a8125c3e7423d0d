"""Matcher's third step: which masks are the object, by their patches and the matched points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from hipie_fewshot.modeling.optimal_transport import moving_cost

TINY = 1e-6


@dataclass(frozen=True)
class SelectionSettings:
    """See the keys of the same names in `hipie_fewshot.config`."""

    score: tuple[float, float, float] = (1.0, 0.0, 0.0)
    purity: float = 0.02
    distance: float = 0.33
    relative_distance: float = 0.1
    merged: int = 9


@dataclass(frozen=True)
class Measures:
    """How well N masks fit, each [N] float32.

    Attributes:
        likeness: 1 - the cost of moving the example's patches to the mask's.
        purity: matched points in the mask for each of its patches.
        coverage: the share of the matched points that lie in it.
    """

    likeness: Tensor
    purity: Tensor
    coverage: Tensor


def measure(
    masks: Sequence[np.ndarray], points: np.ndarray, costs: np.ndarray, side: int
) -> Measures:
    """Measure masks of the square.

    Args:
        masks: N of [S, S] bool.
        points: [M, 2] x and y of the matched patches.
        costs: [R, side * side] between the object's patches and the image's.
        side: patches in a row.
    """
    rows = [_measure(mask, points, costs, side) for mask in masks]
    return Measures(*torch.tensor(rows, dtype=torch.float32).reshape(-1, 3).T)


def _measure(
    mask: np.ndarray, points: np.ndarray, costs: np.ndarray, side: int
) -> tuple[float, float, float]:
    area = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    # Of an empty mask, all patches.
    patches = area > 0 if area.max() > 0 else np.ones_like(area, bool)
    inside = int(mask[points[:, 1], points[:, 0]].sum())
    likeness = 1 - moving_cost(costs[:, patches.ravel()])
    return likeness, inside / int(patches.sum()) + TINY, inside / len(points) + TINY


def select(measures: Measures, settings: SelectionSettings) -> tuple[list[int], float]:
    """The masks that make the result, the best first, and the best one's score.

    Impure masks are dropped (unless all are as impure). Of the others those stay whose distance,
    1 - score, is small by itself or the smallest, and near the smallest.
    """
    alpha, beta, gamma = settings.score
    scores = alpha * measures.likeness + beta * measures.purity * measures.coverage**gamma
    least = min(settings.purity, float(measures.purity.max()))
    pure = (measures.purity >= least).nonzero().flatten()
    distances, order = (1 - scores[pure]).sort()
    near = distances < settings.distance
    near[0] = True
    relative = (distances - distances[0]) / (distances[-1] + TINY)
    near &= relative < settings.relative_distance
    chosen = pure[order[near]][: settings.merged].tolist()
    return chosen, float(1 - distances[0])
