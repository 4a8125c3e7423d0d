"""Upsampling of mask logits at stride 4 to the size of the results in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.chunking import CPU_BYTES, CPU_MASK_BYTES, mask_bytes

STRIDE = 4
COPIES_PER_MASK = 4
MIN_BAND_ROWS = 4

Size = tuple[int, int]


def mask_chunks(count: int, *sizes: Size, chunk_bytes: int = CPU_BYTES) -> Iterator[slice]:
    """Slice `count` masks so that the float32 copies of a chunk fit the working memory.

    Args:
        count: number of masks.
        sizes: (height, width) at which a mask exists while it is processed.
        chunk_bytes: memory of a chunk; a chunk has at least one mask.
    """
    pixels = max(height * width for height, width in sizes)
    step = max(1, chunk_bytes // (COPIES_PER_MASK * 4 * max(pixels, 1)))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def row_bands(height: int, row_bytes: int, band_bytes: int = CPU_MASK_BYTES) -> Iterator[slice]:
    """Slice `height` rows so that a band fits the working memory; four rows at least.

    Args:
        height: number of rows.
        row_bytes: memory of one row of everything that is processed.
        band_bytes: memory of a band.
    """
    step = max(MIN_BAND_ROWS, band_bytes // max(row_bytes, 1))
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
    chunk_bytes: int | None = None,
) -> Tensor:
    """Compute binary instance masks: bilinear x4, threshold 0.5, nearest to the output size.

    Beside the result (one byte a pixel and instance) and `mask_logits`, this takes at most
    `chunk_bytes`, or the memory of a single mask.

    Args:
        mask_logits: [N, h, w] at a quarter of the padded canvas.
        input_size: (height, width) of the unpadded image.
        output_size: (height, width) of the results.
        chunk_bytes: memory of a chunk of masks; None = as usual for the device.

    Returns:
        [N, H, W] bool.
    """
    chunk_bytes = chunk_bytes or mask_bytes(mask_logits.device)
    count = len(mask_logits)
    masks = mask_logits.new_empty((count, *output_size), dtype=torch.bool)
    canvas = (mask_logits.shape[-2] * STRIDE, mask_logits.shape[-1] * STRIDE)
    for rows in mask_chunks(count, canvas, output_size, chunk_bytes=chunk_bytes):
        binary = upsample_to_input(mask_logits[rows], input_size) > 0
        if tuple(binary.shape[-2:]) != tuple(output_size):
            as_bytes = binary[None].to(torch.uint8)
            binary = F.interpolate(as_bytes, size=output_size, mode="nearest")[0].bool()
        masks[rows] = binary
    return masks


class MaskRowUpsampler:
    """Mask logits at the size of the results, a band of image rows at a time.

    Equal to bilinear resizing twice (`upsample_to_input`, then to the output size), but hundreds
    of full-size masks never exist at once: resizing columns and resizing rows are two linear maps,
    and rows of the result depend on few rows of the small masks.

    Args:
        mask_logits: tensors [n, h, w], N masks together.
        input_size: (height, width) of the unpadded image.
        output_size: (height, width) of the results.
        stride: pixels of the padded canvas per pixel of the masks.
    """

    def __init__(
        self,
        mask_logits: Sequence[Tensor],
        input_size: Size,
        output_size: Size,
        stride: int = STRIDE,
    ) -> None:
        self._input_size, self._output_size, self._stride = input_size, output_size, stride
        by_row = [logits.detach().float().transpose(0, 1) for logits in mask_logits]
        self._small = torch.cat(by_row, dim=1)
        identity = torch.eye(len(self._small), device=self._small.device)
        self._rows: Tensor | None = None
        self._row_weights = _resize_lines(identity, input_size[0], output_size[0], stride).t()

    def __call__(self, top: int, bottom: int) -> Tensor:
        """[bottom - top, N, W] mask logits of these rows of the result, until the next call."""
        sources = self.source_rows(top, bottom)
        small = self._small[sources]
        wide = _resize_lines(
            small.flatten(0, 1), self._input_size[1], self._output_size[1], self._stride
        )
        weights = self._row_weights[top:bottom, sources]
        num_masks, width = self._small.shape[1], self._output_size[1]
        if self._rows is None or len(self._rows) < len(weights):
            self._rows = weights.new_empty(len(weights), num_masks * width)
        rows = self._rows[: len(weights)]
        torch.mm(weights, wide.reshape(len(small), -1), out=rows)
        return rows.view(-1, num_masks, width)

    def source_rows(self, top: int, bottom: int) -> slice:
        """Rows of the small masks that rows of the result are interpolated from.

        Between them and the result are the rows of the unpadded image. A pixel centre y of a result
        of H rows is at (y + 1/2) h / H - 1/2 of h rows, between two rows of which it is
        interpolated. One row more on either side allows for rounding.
        """
        height, out_height = self._input_size[0], self._output_size[0]
        first = math.floor((top + 0.5) * height / out_height - 0.5)
        last = math.floor((bottom - 0.5) * height / out_height - 0.5) + 1
        first = math.floor((max(first, 0) + 0.5) / self._stride - 0.5) - 1
        last = math.floor((min(last, height - 1) + 0.5) / self._stride - 0.5) + 2
        return slice(max(first, 0), min(last + 1, len(self._small)))


def _resize_lines(lines: Tensor, input_length: int, size: int, stride: int) -> Tensor:
    """Upsample lines [N, n] by the stride, crop them to `input_length`, and resize to [N, size]."""
    upsampled = F.interpolate(lines[None], scale_factor=stride, mode="linear")[:, :, :input_length]
    if input_length != size:
        upsampled = F.interpolate(upsampled, size=size, mode="linear")
    return upsampled[0]
