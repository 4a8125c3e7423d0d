"""Bidirectional patch matching of Matcher.

Liu et al., "Matcher: Segment Anything with One Shot Using All-Purpose Feature Matching", ICLR 2024,
section 3.2.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Above this number of matches, the half with the lower similarity is dropped.
MAX_MATCHES = 40


def match_patches(similarity: Tensor, object_mask: Tensor) -> Tensor:
    """Match the object's patches of the support images to patches of the query image.

    Forward, the object's patches are assigned to query patches so that the sum of similarities is
    maximal; backward, the assigned query patches are assigned to the patches of all support images.
    Matches that return to the object are kept, or all of them if none returns.

    Args:
        similarity: [R, P] cosine similarity of support and query patches.
        object_mask: [R] bool, the object's patches.

    Returns:
        Ascending indices of query patches [M], M >= 1.
    """
    forward = similarity[object_mask]
    rows, matches = _assign(forward)
    _, returned = _assign(similarity.T[matches])
    consistent = object_mask[returned]
    if consistent.any():
        rows, matches = rows[consistent], matches[consistent]
    if len(matches) > MAX_MATCHES:
        order = forward[rows, matches].sort(descending=True).indices
        matches = matches[order[: len(order) // 2]]
    return matches.unique()


def _assign(gains: Tensor) -> tuple[Tensor, Tensor]:
    """Solve the linear assignment problem; rows and columns of the pairs."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(gains.cpu().numpy(), maximize=True)
    return (
        torch.from_numpy(np.asarray(rows)).to(gains.device),
        torch.from_numpy(np.asarray(columns)).to(gains.device),
    )
