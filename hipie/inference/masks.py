"""Mask logits at stride 4, brought to the size of the picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STRIDE = 4
# Mask pixels that are enlarged at once: 256 MB in float32.
PIXELS_AT_ONCE = 64 * 1024 * 1024


def at_input_size(logits: Tensor, input_size: tuple[int, int]) -> Tensor:
    """[n, h, w] at stride 4 -> [n, H, W], bilinear, cropped to the unpadded picture."""
    grown = F.interpolate(
        logits[:, None].float(), scale_factor=STRIDE, mode="bilinear", align_corners=False
    )
    return grown[:, 0, : input_size[0], : input_size[1]]


def instance_masks(
    logits: Tensor, input_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """Binary masks: probability above 0.5 at the input size, nearest to the output size.

    Args:
        logits: [n, h, w] at stride 4.
        input_size, output_size: (height, width).

    Returns:
        [n, *output_size] bool. A few masks are enlarged at a time.
    """
    out = torch.zeros(len(logits), *output_size, dtype=torch.bool, device=logits.device)
    for rows in _chunks(len(logits), input_size):
        inside = at_input_size(logits[rows], input_size) > 0
        if input_size != output_size:
            inside = F.interpolate(inside[:, None].float(), size=output_size)[:, 0] > 0.5
        out[rows] = inside
    return out


def probabilities(
    logits: Tensor, input_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """Mask probabilities [n, *output_size] float32: enlarged, cropped, bilinear, sigmoid."""
    grown = at_input_size(logits, input_size)
    if input_size != output_size:
        grown = F.interpolate(
            grown[:, None], size=output_size, mode="bilinear", align_corners=False
        )[:, 0]
    return grown.sigmoid()


def _chunks(count: int, size: tuple[int, int]) -> list[slice]:
    step = max(1, PIXELS_AT_ONCE // max(size[0] * size[1], 1))
    return [slice(start, start + step) for start in range(0, count, step)]
