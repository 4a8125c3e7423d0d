"""Mask logits at a quarter of the canvas -> masks of the image that was given."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

STRIDE = 4
WORKING_BYTES = 256 * 2**20
COPIES = 4
BAND_BYTES = 64 * 2**20

Size = tuple[int, int]


def mask_chunks(count: int, *sizes: Size, working_bytes: int = WORKING_BYTES) -> Iterator[slice]:
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


def upsample_to_input(mask_logits: Tensor, input_size: Size) -> Tensor:
    """Bilinear to four times the size, then the padding is cut away.

    Args:
        mask_logits: [N, h, w] at a quarter of the padded canvas.
        input_size: (height, width) of the image inside the canvas.

    Returns:
        [N, height, width] float32.
    """
    full = F.interpolate(
        mask_logits.float()[None], scale_factor=STRIDE, mode="bilinear", align_corners=False
    )
    return full[0, :, : input_size[0], : input_size[1]]


class MaskRowUpsampler:
    """Masks at the size of the results, a few rows of the image at a time.

    Bilinear twice, as `upsample_to_input` and then to the output size, but hundreds of masks never exist at
    full size: resizing columns and resizing rows are two linear maps, so rows can be made alone.
    Asked for from top to bottom, no row of the small masks is widened twice.

    Args:
        mask_logits: [N, h, w] at a quarter of the padded canvas.
        input_size: (height, width) of the image inside the canvas.
        output_size: (height, width) asked for.
    """

    def __init__(self, mask_logits: Tensor, input_size: Size, output_size: Size) -> None:
        self._input_width, self._width = input_size[1], output_size[1]
        self._small = mask_logits.detach().float().transpose(0, 1).contiguous()
        height = mask_logits.shape[-2]
        mix = _resize(torch.eye(height), input_size[0], output_size[0]).t()
        self._sources = [_sources(row) for row in mix]
        self._wide, self._start = self._small.new_empty(0, len(mask_logits), self._width), 0

    def __call__(self, top: int, bottom: int) -> Tensor:
        """[bottom - top, N, W] mask logits of these rows of the result."""
        sources = self._sources[top:bottom]
        self._widen(min(first for first, _ in sources), max(r + len(w) for r, w in sources))
        rows = self._wide.new_empty(bottom - top, self._wide.shape[1], self._width)
        for row, (first, weights) in enumerate(sources):
            wide = self._wide[first - self._start :][: len(weights)]
            if len(weights) == 2:
                torch.lerp(wide[0], wide[1], weights[1], out=rows[row])
            else:
                rows[row] = torch.einsum("r,rnw->nw", wide.new_tensor(weights), wide)
        return rows

    def _widen(self, first: int, last: int) -> None:
        """Have rows [first, last) of the small masks at the width of the result, and no others."""
        known = self._start <= first < self._start + len(self._wide)
        kept = self._wide[first - self._start :] if known else self._wide[:0]
        stop = first + len(kept)
        if last > stop:
            lines = self._small[stop:last].flatten(0, 1)
            made = _resize(lines, self._input_width, self._width)
            kept = torch.cat([kept, made.view(last - stop, -1, self._width)])
        self._wide, self._start = kept, first


def _sources(weights: Tensor) -> tuple[int, list[float]]:
    """The first and the weights of the rows that one row of a result is mixed from."""
    used = weights.nonzero().flatten().tolist()
    return used[0], weights[used[0] : used[-1] + 1].tolist()


def _resize(lines: Tensor, inside: int, size: int) -> Tensor:
    """Lines [N, n] four times as long, cut to `inside`, then resized: [N, size]."""
    full = F.interpolate(lines[None], scale_factor=STRIDE, mode="linear")[:, :, :inside]
    if inside != size:
        full = F.interpolate(full, size=size, mode="linear")
    return full[0]


def row_bands(height: int, row_bytes: int, working_bytes: int = BAND_BYTES) -> Iterator[slice]:
    """Slices of `height` rows that fit the working memory, four rows at least.

    Args:
        height: how many rows.
        row_bytes: what one row of everything takes.
        working_bytes: memory for a band.
    """
    step = max(4, working_bytes // max(row_bytes, 1))
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def upsample_instance_masks(
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
        input_size: (height, width) of the image inside the canvas.
        output_size: (height, width) asked for.

    Returns:
        [N, H, W] bool.
    """
    count = len(mask_logits)
    masks = mask_logits.new_empty((count, *output_size), dtype=torch.bool)
    canvas = (mask_logits.shape[-2] * STRIDE, mask_logits.shape[-1] * STRIDE)
    for rows in mask_chunks(count, canvas, output_size, working_bytes=working_bytes):
        binary = upsample_to_input(mask_logits[rows], input_size) > 0
        if tuple(binary.shape[-2:]) != tuple(output_size):
            bytes_ = binary[None].to(torch.uint8)
            binary = F.interpolate(bytes_, size=output_size, mode="nearest")[0].bool()
        masks[rows] = binary
    return masks
