"""The triphasic query module: a sentence asks each picture, and each picture asks all of them.

Wu et al., ICCV 2023. With the sentence l, the map V_n of picture n, and cos the cosine of two
vectors over channels, at each place x of the h w places:

    language heatmap   M_n(x) = cos(V_n(x), l)
    prototype          p_n = (1 / h w) sum_x M_n(x) V_n(x)
    visual heatmaps    M_ni(x) = cos(V_n(x), p_i)   for every picture i, n itself included

Lengths are at least 1e-6. Gradients flow through everything.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHORTEST = 1e-6


def language_heatmap(V: Tensor, l: Tensor) -> Tensor:  # noqa: E741  as in the paper
    """Maps V [N, C, H, W] and a sentence l [C] -> [N, H, W] in -1..1."""
    return visual_heatmaps(V, l[None])[:, 0]


def prototypes(V: Tensor, M: Tensor) -> Tensor:
    """Maps V [N, C, H, W] and language heatmaps M [N, H, W] -> [N, C].

    A plain mean over places: what is unlike the sentence is subtracted.
    """
    places = M.shape[-2] * M.shape[-1]
    return torch.einsum("nchw,nhw->nc", V, M.to(V.dtype)) / places


def visual_heatmaps(V: Tensor, p: Tensor) -> Tensor:
    """Maps V [N, C, H, W] and prototypes p [K, C] -> [N, K, H, W] in -1..1, picture by prototype.

    In the paper K = N; any number of prototypes will do.
    """
    return torch.einsum("nchw,kc->nkhw", _unit(V, 1), _unit(p.to(V.dtype), 1))


def _unit(x: Tensor, dim: int) -> Tensor:
    return x / x.norm(dim=dim, keepdim=True).clamp_min(SHORTEST)
