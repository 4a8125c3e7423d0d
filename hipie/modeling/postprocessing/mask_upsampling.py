"""Upsampling of mask logits at stride 4 to the size of the results in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

STRIDE = 4
CHUNK_BYTES = 256 * 2**20
COPIES_PER_MASK = 4
BAND_BYTES = 64 * 2**20
MIN_BAND_ROWS = 4

Size = tuple[int, int]


def mask_chunks(count: int, *sizes: Size, working_bytes: int = CHUNK_BYTES) -> Iterator[slice]:
    """Slice `count` masks so that the float32 copies of a chunk fit the working memory.

    Args:
        count: number of masks.
        sizes: (height, width) at which a mask exists while it is processed.
        working_bytes: memory of a chunk; a chunk has at least one mask.
    """
    pixels = max(height * width for height, width in sizes)
    step = max(1, working_bytes // (COPIES_PER_MASK * 4 * max(pixels, 1)))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def row_bands(height: int, row_bytes: int, working_bytes: int = BAND_BYTES) -> Iterator[slice]:
    """Slice `height` rows so that a band fits the working memory; four rows at least.

    Args:
        height: number of rows.
        row_bytes: memory of one row of everything that is processed.
        working_bytes: memory of a band.
    """
    step = max(MIN_BAND_ROWS, working_bytes // max(row_bytes, 1))
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def upsample_to_input(mask_logits: Tensor, input_size: Size) -> Tensor:
    """Upsample bilinearly by four and crop the padding.

    Args:
        mask_logits: [N, h, w] at a quarter of the padded canvas.
        input_size: (height, width) of the unpadded image.

    Returns:
        [N, height, width] float32.
    """
    upsampled = F.interpolate(
        mask_logits.float()[None], scale_factor=STRIDE, mode="bilinear", align_corners=False
    )
    return upsampled[0, :, : input_size[0], : input_size[1]]


def upsample_instance_masks(
    mask_logits: Tensor,
    input_size: Size,
    output_size: Size,
    working_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """Compute binary instance masks: bilinear x4, threshold 0.5, nearest to the output size.

    Beside the result (one byte a pixel and instance) and `mask_logits`, this takes at most
    `working_bytes`, or the memory of a single mask.

    Args:
        mask_logits: [N, h, w] at a quarter of the padded canvas.
        input_size: (height, width) of the unpadded image.
        output_size: (height, width) of the results.
        working_bytes: memory of a chunk of masks.

    Returns:
        [N, H, W] bool.
    """
    count = len(mask_logits)
    masks = mask_logits.new_empty((count, *output_size), dtype=torch.bool)
    canvas = (mask_logits.shape[-2] * STRIDE, mask_logits.shape[-1] * STRIDE)
    for rows in mask_chunks(count, canvas, output_size, working_bytes=working_bytes):
        binary = upsample_to_input(mask_logits[rows], input_size) > 0
        if tuple(binary.shape[-2:]) != tuple(output_size):
            as_bytes = binary[None].to(torch.uint8)
            binary = F.interpolate(as_bytes, size=output_size, mode="nearest")[0].bool()
        masks[rows] = binary
    return masks


class MaskRowUpsampler:
    """Mask logits at the size of the results, a few image rows at a time.

    Equal to bilinear resizing twice (`upsample_to_input`, then to the output size), but hundreds
    of full-size masks never exist at once: resizing columns and resizing rows are two linear maps,
    so rows can be computed alone. With calls from top to bottom, no row of the small masks is
    widened twice.

    Args:
        mask_logits: [N, h, w] at a quarter of the padded canvas.
        input_size: (height, width) of the unpadded image.
        output_size: (height, width) of the results.
    """

    def __init__(self, mask_logits: Tensor, input_size: Size, output_size: Size) -> None:
        self._input_width, self._width = input_size[1], output_size[1]
        self._small = mask_logits.detach().float().transpose(0, 1).contiguous()
        height = mask_logits.shape[-2]
        row_weights = _resize_lines(torch.eye(height), input_size[0], output_size[0]).t()
        self._sources = [_source_rows(weights) for weights in row_weights]
        self._wide, self._start = self._small.new_empty(0, len(mask_logits), self._width), 0

    def __call__(self, top: int, bottom: int) -> Tensor:
        """[bottom - top, N, W] mask logits of these rows of the result."""
        sources = self._sources[top:bottom]
        self._widen(
            min(first for first, _ in sources),
            max(first + len(weights) for first, weights in sources),
        )
        rows = self._wide.new_empty(bottom - top, self._wide.shape[1], self._width)
        for row, (first, weights) in enumerate(sources):
            wide = self._wide[first - self._start :][: len(weights)]
            if len(weights) == 2:
                torch.lerp(wide[0], wide[1], weights[1], out=rows[row])
            else:
                rows[row] = torch.einsum("r,rnw->nw", wide.new_tensor(weights), wide)
        return rows

    def _widen(self, first: int, last: int) -> None:
        """Cache the rows [first, last) of the small masks, resized to the width of the result."""
        reusable = self._start <= first < self._start + len(self._wide)
        reused = self._wide[first - self._start :] if reusable else self._wide[:0]
        stop = first + len(reused)
        if last > stop:
            lines = self._small[stop:last].flatten(0, 1)
            widened = _resize_lines(lines, self._input_width, self._width)
            reused = torch.cat([reused, widened.view(last - stop, -1, self._width)])
        self._wide, self._start = reused, first


def _source_rows(weights: Tensor) -> tuple[int, list[float]]:
    """First index and weights of the input rows that one row of the result is interpolated from."""
    source_index = weights.nonzero().flatten().tolist()
    return source_index[0], weights[source_index[0] : source_index[-1] + 1].tolist()


def _resize_lines(lines: Tensor, input_length: int, size: int) -> Tensor:
    """Upsample lines [N, n] by four, crop them to `input_length`, and resize to [N, size]."""
    upsampled = F.interpolate(lines[None], scale_factor=STRIDE, mode="linear")[:, :, :input_length]
    if input_length != size:
        upsampled = F.interpolate(upsampled, size=size, mode="linear")
    return upsampled[0]
