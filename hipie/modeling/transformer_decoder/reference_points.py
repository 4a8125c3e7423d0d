"""Reference boxes: from logits and back, and in pixels of the valid area."""

from __future__ import annotations

import torch
from torch import Tensor


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """The logit of values in 0..1; values outside are clamped, both sides kept above `eps`."""
    x = x.float().clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def valid_ratios(padding_mask: Tensor) -> Tensor:
    """Share of the canvas that each image covers.

    Args:
        padding_mask: [B, h, w] bool of one level, True where padded.

    Returns:
        [B, 2] (x, y) in 0..1.
    """
    valid = ~padding_mask
    height, width = padding_mask.shape[1:]
    return torch.stack([valid[:, 0].sum(1) / width, valid[:, :, 0].sum(1) / height], dim=-1)
