"""Triphasic query module (Wu et al., ICCV 2023).

With the expression l, the feature map V_n of image n, and cos the cosine similarity of two vectors
over channels, at each position x of the h w positions:

    language heatmap   M_n(x) = cos(V_n(x), l)
    prototype          p_n = (1 / h w) sum_x M_n(x) V_n(x)
    visual heatmaps    M_ni(x) = cos(V_n(x), p_i)   for every image i, n itself included

Vector norms are clamped to at least `shortest`. All functions are differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EPS = 1e-6


def language_heatmap(V: Tensor, l: Tensor, shortest: float = EPS) -> Tensor:  # noqa: E741
    """Compute the cosine similarity of feature maps and an expression.

    Args:
        V: [N, C, H, W] feature maps.
        l: [C] feature of the expression.
        shortest: lower bound of vector norms.

    Returns:
        [N, H, W] in -1..1.

    Raises:
        ValueError: for tensors of other shapes.
    """
    check_shape("the maps V", V, (None,) * 4)
    check_shape("the expression l", l, (V.shape[1],))
    return visual_heatmaps(V, l[None], shortest)[:, 0]


def prototypes(V: Tensor, M: Tensor) -> Tensor:
    """Compute the mean of each feature map weighted by its language heatmap.

    The sum is divided by the number of positions, so that positions of negative similarity are
    subtracted.

    Args:
        V: [N, C, H, W] feature maps.
        M: [N, H, W] language heatmaps.

    Returns:
        [N, C].

    Raises:
        ValueError: for tensors of other shapes.
    """
    check_shape("the maps V", V, (None,) * 4)
    check_shape("the heatmaps M", M, (V.shape[0], *V.shape[2:]))
    positions = M.shape[-2] * M.shape[-1]
    return torch.einsum("nchw,nhw->nc", V, M.to(V.dtype)) / positions


def visual_heatmaps(V: Tensor, p: Tensor, shortest: float = EPS) -> Tensor:
    """Compute the cosine similarity of feature maps and prototypes.

    Args:
        V: [N, C, H, W] feature maps.
        p: [K, C] prototypes; in the paper K = N.
        shortest: lower bound of vector norms.

    Returns:
        [N, K, H, W] in -1..1, images by prototypes.

    Raises:
        ValueError: for tensors of other shapes.
    """
    check_shape("the maps V", V, (None,) * 4)
    check_shape("the prototypes p", p, (None, V.shape[1]))
    return torch.einsum(
        "nchw,kc->nkhw", _normalize(V, shortest), _normalize(p.to(V.dtype), shortest)
    )


def check_shape(name: str, x: Tensor, shape: Sequence[int | None]) -> None:
    """Check the shape of a tensor; None is any size.

    Raises:
        ValueError: with the name and both shapes.
    """
    valid = x.ndim == len(shape) and all(
        expected in (None, actual) for expected, actual in zip(shape, x.shape, strict=True)
    )
    if not valid:
        expected_shape = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must be [{expected_shape}], and is {list(x.shape)}")


def _normalize(x: Tensor, eps: float) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp_min(eps)
