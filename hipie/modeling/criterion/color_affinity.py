"""Similarity of the colours of neighbouring pixels (BoxInst, Tian et al., CVPR 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DILATION = 2
"""Pixels between a pixel and its neighbours in `neighbours`."""
# Linear RGB of sRGB to CIE XYZ (IEC 61966-2-1), and the white of D65 seen at 2 degrees.
RGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.95047, 1.0, 1.08883)


def neighbours(maps: Tensor) -> Tensor:
    """Values of the eight neighbours of every pixel, `DILATION` pixels away, 0 outside.

    Args:
        maps: [n, h, w].

    Returns:
        [n, 8, h, w], row by row from the top left.
    """
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (DILATION,) * 4)
    shifts = [
        (row, column)
        for row in (0, DILATION, 2 * DILATION)
        for column in (0, DILATION, 2 * DILATION)
        if (row, column) != (DILATION, DILATION)
    ]
    shifted = [padded[:, y : y + height, x : x + width] for y, x in shifts]
    return torch.stack(shifted, dim=1)


def color_similarity(colors: Tensor, inside: Tensor) -> Tensor:
    """Similarity exp(-|c - c'| / 2) of the colours of every pixel and its neighbours (equation 6).

    Args:
        colors: [n, 3, h, w] CIELAB.
        inside: [n, h, w] bool, False = padding.

    Returns:
        [n, 8, h, w] in 0..1, 0 for neighbours outside of the image.
    """
    distance = torch.stack(
        [channel[:, None] - neighbours(channel) for channel in colors.unbind(1)]
    ).norm(dim=0)
    return (-distance / 2).exp() * neighbours(inside.to(colors.dtype))


def rgb_to_lab(colors: Tensor) -> Tensor:
    """Convert sRGB colours to CIELAB, with the constants of scikit-image.

    Args:
        colors: [n, 3, h, w] in 0..1.

    Returns:
        [n, 3, h, w]: L in 0..100, a and b in about -100..100.
    """
    linear = torch.where(colors > 0.04045, ((colors + 0.055) / 1.055) ** 2.4, colors / 12.92)
    xyz = torch.einsum("cd,ndhw->nchw", colors.new_tensor(RGB_TO_XYZ), linear)
    ratio = xyz / colors.new_tensor(WHITE)[:, None, None]
    root = ratio.clamp(min=0) ** (1 / 3)
    x, y, z = torch.where(ratio > 0.008856, root, 7.787 * ratio + 16 / 116).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
