"""The heatmap hierarchizer: one order of trust for all the heatmaps of a group.

Wu et al., ICCV 2023. A prototype is trusted if it lies near the sentence l and far from the
anti-sentence l_anti. Its rank by the distance to l (nearest first) and its rank by the distance to
l_anti (farthest first) are added; the smallest sum comes first. Equal distances are ranked in the
order of the pictures; equal sums by the difference of the two distances, then in that order.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def hierarchy(p: Tensor, l: Tensor, l_anti: Tensor) -> Tensor:  # noqa: E741  as in the paper
    """The order of a group's prototypes, most trusted first; it carries no gradient.

    Args:
        p: [N, C] prototypes.
        l, l_anti: [C] sentence and anti-sentence, in the same space.

    Returns:
        [N] int64 positions in `p`.
    """
    wide = p.double()
    near = (wide - l.double()).norm(dim=-1)
    far = (wide - l_anti.double()).norm(dim=-1)
    by_difference = (near - far).argsort(stable=True)
    trust = _rank(near) + _rank(-far)
    return by_difference[trust[by_difference].argsort(stable=True)]


def _rank(values: Tensor) -> Tensor:
    """How many come before each, smallest first; of equal ones the earlier comes first."""
    return values.argsort(stable=True).argsort()
