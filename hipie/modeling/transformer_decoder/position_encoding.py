"""Sine embeddings of pixel positions and of boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0


def sine_position_embedding(padding_mask: Tensor, width: int, offset: float = 0.0) -> Tensor:
    """Compute the sine embedding of every pixel among the unpadded pixels (DETR, appendix A.4).

    A coordinate is (count of unpadded pixels so far + offset) / (their number + 1e-6) * 2 pi; the
    first half of the channels is y, the second x, sine and cosine alternating.

    Args:
        padding_mask: [B, H, W] bool, True where padded.
        width: channels of the result, divisible by 4.
        offset: -0.5 for things, 0 for stuff.

    Returns:
        [B, width, H, W] float32.
    """
    valid = (~padding_mask).float()
    y, x = valid.cumsum(1), valid.cumsum(2)
    y = (y + offset) / (y[:, -1:, :] + 1e-6)
    x = (x + offset) / (x[:, :, -1:] + 1e-6)
    embedding = sine_box_embedding(torch.stack([x, y], dim=-1), width // 2)
    return embedding.permute(0, 3, 1, 2)


def sine_box_embedding(boxes: Tensor, channels: int = 128) -> Tensor:
    """Compute the sine embedding of points or boxes in 0..1, in the order y, x[, w, h] (DAB-DETR).

    Args:
        boxes: [..., 2] (x, y) or [..., 4] (cx, cy, w, h).
        channels: of the embedding of one coordinate.

    Returns:
        [..., channels * 2 or 4] float32.
    """
    channel = torch.arange(channels, dtype=torch.float32, device=boxes.device)
    period = TEMPERATURE ** (2 * (channel // 2) / channels)
    x, y, *size = boxes.unbind(-1)
    ordered = torch.stack([y, x, *size], dim=-1)
    angles = ordered.float()[..., None] * (2 * math.pi) / period
    waves = torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1)
    return waves.flatten(-3)
