"""The triphasic query module: an expression asks each image, and each image asks all of them.

Wu et al., ICCV 2023. With the expression l, the map V_n of image n, and cos the cosine of two
vectors over channels, at each place x of the h w places:

    language heatmap   M_n(x) = cos(V_n(x), l)
    prototype          p_n = (1 / h w) sum_x M_n(x) V_n(x)
    visual heatmaps    M_ni(x) = cos(V_n(x), p_i)   for every image i, n itself included

Lengths are taken to be at least `shortest`. Gradients flow through everything.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SHORTEST = 1e-6


def language_heatmap(V: Tensor, l: Tensor, shortest: float = SHORTEST) -> Tensor:  # noqa: E741
    """Maps V [N, C, H, W] and an expression l [C] -> [N, H, W] in -1..1.

    Raises:
        ValueError: for tensors of other shapes.
    """
    require_shape("the maps V", V, (None,) * 4)
    require_shape("the expression l", l, (V.shape[1],))
    return visual_heatmaps(V, l[None], shortest)[:, 0]


def prototypes(V: Tensor, M: Tensor) -> Tensor:
    """Maps V [N, C, H, W] and language heatmaps M [N, H, W] -> [N, C].

    A plain mean over places: what is unlike the expression is subtracted.

    Raises:
        ValueError: for tensors of other shapes.
    """
    require_shape("the maps V", V, (None,) * 4)
    require_shape("the heatmaps M", M, (V.shape[0], *V.shape[2:]))
    places = M.shape[-2] * M.shape[-1]
    return torch.einsum("nchw,nhw->nc", V, M.to(V.dtype)) / places


def visual_heatmaps(V: Tensor, p: Tensor, shortest: float = SHORTEST) -> Tensor:
    """Maps V [N, C, H, W] and prototypes p [K, C] -> [N, K, H, W] in -1..1, image by prototype.

    In the paper K = N; any number of prototypes will do.

    Raises:
        ValueError: for tensors of other shapes.
    """
    require_shape("the maps V", V, (None,) * 4)
    require_shape("the prototypes p", p, (None, V.shape[1]))
    return torch.einsum("nchw,kc->nkhw", _unit(V, shortest), _unit(p.to(V.dtype), shortest))


def require_shape(what: str, x: Tensor, wanted: Sequence[int | None]) -> None:
    """Refuse a tensor that is not of a shape, in which None is any size.

    Raises:
        ValueError: with the name and both shapes.
    """
    fits = x.ndim == len(wanted) and all(
        size in (None, found) for size, found in zip(wanted, x.shape, strict=True)
    )
    if not fits:
        said = ", ".join("any" if size is None else str(size) for size in wanted)
        raise ValueError(f"{what} must be [{said}], and is {list(x.shape)}")


def _unit(x: Tensor, shortest: float) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp_min(shortest)
