"""Heatmap hierarchizer: the order of a group's heatmaps by reliability (Wu et al., ICCV 2023).

A prototype is reliable if it is close to the expression l and far from the anti-expression l_anti.
Its rank by the distance to l (ascending) and its rank by the distance to l_anti (descending) are
added; the smallest sum comes first. Equal distances are ranked in the order of the images. The
paper does not state the order of equal sums; here they are sorted by the difference of the two
distances and then in the order of the images, or only in the order of the images. Sorting by one
of the two ranks alone is an ablation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grser.tqm import check_shape

BY_DIFFERENCE, BY_INDEX = "difference", "order"
TIES = (BY_DIFFERENCE, BY_INDEX)
BOTH, POSITIVE, NEGATIVE = "both", "positive", "negative"
RANKS = (BOTH, POSITIVE, NEGATIVE)


@torch.no_grad()
def hierarchy(
    p: Tensor,
    l: Tensor,  # noqa: E741  as in the paper
    l_anti: Tensor | None,
    ties: str = BY_DIFFERENCE,
    ranks: str = BOTH,
) -> Tensor:
    """Sort a group's prototypes, most reliable first; the result carries no gradient.

    Args:
        p: [N, C] prototypes.
        l: [C] expression, in the same space.
        l_anti: [C] anti-expression, likewise; None if `ranks` is "positive".
        ties: order of equal sums, "difference" or "order".
        ranks: sort by the sum of "both" ranks, or by the distance to the expression ("positive") or
            to the anti-expression ("negative") alone.

    Returns:
        [N] int64 indices into `p`.

    Raises:
        ValueError: for tensors of other shapes, or without a needed anti-expression.
    """
    check_shape("the prototypes p", p, (None, None))
    check_shape("the expression l", l, p.shape[1:])
    p64 = p.double()
    distance = (p64 - l.double()).norm(dim=-1)
    if ranks == POSITIVE:
        return distance.argsort(stable=True)
    if l_anti is None:
        raise ValueError(f'the ranks "{ranks}" need an anti-expression')
    check_shape("the anti-expression l_anti", l_anti, p.shape[1:])
    anti_distance = (p64 - l_anti.double()).norm(dim=-1)
    if ranks == NEGATIVE:
        return (-anti_distance).argsort(stable=True)
    rank_sum = _rank(distance) + _rank(-anti_distance)
    if ties == BY_INDEX:
        return rank_sum.argsort(stable=True)
    by_difference = (distance - anti_distance).argsort(stable=True)
    return by_difference[rank_sum[by_difference].argsort(stable=True)]


def _rank(values: Tensor) -> Tensor:
    """Rank of each value in ascending order; of equal values the earlier has the lower rank."""
    return values.argsort(stable=True).argsort()
