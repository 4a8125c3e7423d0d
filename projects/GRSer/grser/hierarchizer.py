"""The heatmap hierarchizer: one order of trust for all the heatmaps of a group.

Wu et al., ICCV 2023. A prototype is trusted if it lies near the expression l and far from the
anti-expression l_anti. Its rank by the distance to l (nearest first) and its rank by the distance to
l_anti (farthest first) are added; the smallest sum comes first. Equal distances are ranked in the
order of the images. How equal sums are ordered is not published: here by the difference of the
two distances, then in the order of the images, or in that order at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grser.tqm import require_shape

BY_DIFFERENCE, IN_ORDER = "difference", "order"
TIES = (BY_DIFFERENCE, IN_ORDER)


@torch.no_grad()
def hierarchy(
    p: Tensor,
    l: Tensor,  # noqa: E741  as in the paper
    l_anti: Tensor,
    ties: str = BY_DIFFERENCE,
) -> Tensor:
    """The order of a group's prototypes, most trusted first; it carries no gradient.

    Args:
        p: [N, C] prototypes.
        l, l_anti: [C] expression and anti-expression, in the same space.
        ties: of equal sums, "difference" or "order".

    Returns:
        [N] int64 positions in `p`.

    Raises:
        ValueError: for tensors of other shapes.
    """
    require_shape("the prototypes p", p, (None, None))
    require_shape("the expression l", l, p.shape[1:])
    require_shape("the anti-expression l_anti", l_anti, p.shape[1:])
    wide = p.double()
    near = (wide - l.double()).norm(dim=-1)
    far = (wide - l_anti.double()).norm(dim=-1)
    trust = _rank(near) + _rank(-far)
    if ties == IN_ORDER:
        return trust.argsort(stable=True)
    by_difference = (near - far).argsort(stable=True)
    return by_difference[trust[by_difference].argsort(stable=True)]


def _rank(values: Tensor) -> Tensor:
    """How many come before each, smallest first; of equal ones the earlier comes first."""
    return values.argsort(stable=True).argsort()
