"""Matcher's first step: which patches of an image match an example's object, there and back."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

# Of more matches than this the worse half is dropped.
MANY = 40


def matched_patches(similarity: Tensor, inside: Tensor) -> Tensor:
    """Patches of the image that match the object.

    Each of the object's patches is assigned one of the image's, so that similarities sum to the
    most; the image's patches that were taken are assigned patches of all examples likewise. Those
    that come back to the object are kept, or all if none does.

    Args:
        similarity: [R, P] of the examples' patches with the image's.
        inside: [R] bool, the object's patches.

    Returns:
        Ascending numbers of patches [M], M >= 1.
    """
    forward = similarity[inside]
    rows, there = _assigned(forward)
    _, back = _assigned(similarity.T[there])
    home = inside[back]
    if home.any():
        rows, there = rows[home], there[home]
    if len(there) > MANY:
        best = forward[rows, there].sort(descending=True).indices
        there = there[best[: len(best) // 2]]
    return there.unique()


def _assigned(gains: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = linear_sum_assignment(gains.cpu().numpy(), maximize=True)
    return tuple(torch.from_numpy(np.asarray(one)).to(gains.device) for one in (rows, columns))


def patch_centres(patches: Tensor, side: int, patch: int) -> np.ndarray:
    """x and y [M, 2] of patches on a grid of `side` columns, in pixels of the square."""
    x, y = patches % side, patches // side
    return (torch.stack([x, y], dim=1) * patch + patch // 2).cpu().numpy()
