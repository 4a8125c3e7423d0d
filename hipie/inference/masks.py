"""Mask logits at a quarter of the canvas -> masks of the picture that was given."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

STRIDE = 4
WORKING_BYTES = 256 * 2**20
COPIES = 4

Size = tuple[int, int]


def chunks(count: int, *sizes: Size, working_bytes: int = WORKING_BYTES) -> Iterator[slice]:
    """Slices of `count` masks so that a chunk's float32 copies stay within the working memory.

    Args:
        count: how many masks.
        sizes: heights and widths at which one mask exists while it is worked on.
        working_bytes: memory for a chunk, of which one mask is always granted.
    """
    pixels = max(height * width for height, width in sizes)
    step = max(1, working_bytes // (COPIES * 4 * max(pixels, 1)))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def to_input(mask_logits: Tensor, input_size: Size) -> Tensor:
    """Bilinear to four times the size, then the padding is cut away.

    Args:
        mask_logits: [N, h, w] at a quarter of the padded canvas.
        input_size: (height, width) of the picture inside the canvas.

    Returns:
        [N, height, width] float32.
    """
    full = F.interpolate(
        mask_logits.float()[None], scale_factor=STRIDE, mode="bilinear", align_corners=False
    )
    return full[0, :, : input_size[0], : input_size[1]]


def to_output(mask_logits: Tensor, input_size: Size, output_size: Size) -> Tensor:
    """Mask logits [N, h, w] at a quarter of the canvas -> [N, H, W] logits, bilinear twice."""
    full = to_input(mask_logits, input_size)
    if tuple(full.shape[-2:]) == tuple(output_size):
        return full
    return F.interpolate(full[None], size=output_size, mode="bilinear", align_corners=False)[0]


def instance_masks(
    mask_logits: Tensor,
    input_size: Size,
    output_size: Size,
    working_bytes: int = WORKING_BYTES,
) -> Tensor:
    """Binary masks of instances: bilinear x4, above one half, then nearest to the output size.

    Beside the result (one byte a pixel and instance) and `mask_logits`, this takes at most
    `working_bytes`, or what a single mask needs.

    Args:
        mask_logits: [N, h, w] at a quarter of the padded canvas.
        input_size: (height, width) of the picture inside the canvas.
        output_size: (height, width) asked for.

    Returns:
        [N, H, W] bool.
    """
    count = len(mask_logits)
    masks = mask_logits.new_empty((count, *output_size), dtype=torch.bool)
    canvas = (mask_logits.shape[-2] * STRIDE, mask_logits.shape[-1] * STRIDE)
    for rows in chunks(count, canvas, output_size, working_bytes=working_bytes):
        binary = to_input(mask_logits[rows], input_size) > 0
        if tuple(binary.shape[-2:]) != tuple(output_size):
            bytes_ = binary[None].to(torch.uint8)
            binary = F.interpolate(bytes_, size=output_size, mode="nearest")[0].bool()
        masks[rows] = binary
    return masks
