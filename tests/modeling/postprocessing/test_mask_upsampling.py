"""Masks at the image's size: formulas, cropping and memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie.modeling.postprocessing.mask_upsampling import (
    MaskRowUpsampler,
    mask_chunks,
    row_bands,
    upsample_instance_masks,
    upsample_to_input,
)


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Half-pixel bilinear resizing in float64."""

    def weights(old: int, new: int) -> np.ndarray:
        matrix = np.zeros((new, old))
        for i in range(new):
            position = max((i + 0.5) * old / new - 0.5, 0.0)
            low = min(int(position), old - 1)
            high = min(low + 1, old - 1)
            matrix[i, low] += 1 - (position - low)
            matrix[i, high] += position - low
        return matrix

    return weights(image.shape[0], height) @ image @ weights(image.shape[1], width).T


def test_upsampling_equals_float64() -> None:
    small = torch.randn(2, 5, 7)
    full = np.stack([bilinear(mask, 20, 28) for mask in small.double().numpy()])[:, :17, :25]
    assert np.abs(upsample_to_input(small, (17, 25)).numpy() - full).max() < 1e-5


@pytest.mark.parametrize("output_size", [(17, 25), (30, 12), (5, 60), (1, 1)])
@pytest.mark.parametrize("step", [1, 4, 100])
def test_rows_equal_float64(output_size: tuple[int, int], step: int) -> None:
    small = torch.randn(2, 5, 7)
    full = np.stack([bilinear(mask, 20, 28) for mask in small.double().numpy()])[:, :17, :25]
    out = np.stack([bilinear(mask, *output_size) for mask in full])
    rows = MaskRowUpsampler([small], (17, 25), output_size)
    for top in range(0, output_size[0], step):
        bottom = min(top + step, output_size[0])
        masks = rows(top, bottom)
        assert masks.shape == (bottom - top, 2, output_size[1])
        assert np.abs(masks.transpose(0, 1).numpy() - out[:, top:bottom]).max() < 1e-5


def test_rows_in_any_order() -> None:
    small = torch.randn(2, 6, 5)
    rows, fresh = (MaskRowUpsampler([small], (24, 20), (24, 20)) for _ in range(2))
    complete = fresh(0, 24)
    for top, bottom in ((8, 12), (0, 3), (20, 24), (19, 22)):
        torch.testing.assert_close(rows(top, bottom), complete[top:bottom])


def test_bands_cover_every_row_once() -> None:
    parts = list(row_bands(103, 1000, band_bytes=10_000))
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(103))
    assert {part.stop - part.start for part in parts} == {10, 3}
    assert [part.stop - part.start for part in row_bands(9, 10**9)] == [4, 4, 1]
    assert list(row_bands(5, 0)) == [slice(0, 5)]


def test_instance_masks_are_thresholded_then_resized_to_nearest() -> None:
    small = torch.randn(3, 6, 8)
    full = np.stack([bilinear(mask, 24, 32) for mask in small.double().numpy()])[:, :21, :30] > 0
    rows = (np.arange(50) * 21 / 50).astype(int)
    columns = (np.arange(11) * 30 / 11).astype(int)
    masks = upsample_instance_masks(small, (21, 30), (50, 11))
    assert masks.dtype == torch.bool
    assert np.array_equal(masks.numpy(), full[:, rows][:, :, columns])


@pytest.mark.parametrize("output_size", [(21, 30), (64, 90), (1, 1)])
def test_chunks_give_equal_masks(output_size: tuple[int, int]) -> None:
    small = torch.randn(9, 6, 8)
    unchunked = upsample_instance_masks(small, (21, 30), output_size)
    one_by_one = upsample_instance_masks(small, (21, 30), output_size, chunk_bytes=1)
    assert torch.equal(unchunked, one_by_one)


def test_chunks_respect_the_working_memory() -> None:
    slices = list(mask_chunks(100, (400, 512), (1000, 1000), chunk_bytes=64 * 10**6))
    assert [s.stop - s.start for s in slices][:2] == [4, 4]
    assert [i for s in slices for i in range(s.start, s.stop)] == list(range(100))
    assert list(mask_chunks(2, (4000, 5000), chunk_bytes=1)) == [slice(0, 1), slice(1, 2)]
    assert list(mask_chunks(0, (10, 10))) == []


def test_no_masks_and_half_precision() -> None:
    assert upsample_instance_masks(torch.zeros(0, 4, 4), (16, 16), (8, 8)).shape == (0, 8, 8)
    coarse = upsample_instance_masks(torch.randn(1, 4, 4).bfloat16(), (16, 16), (8, 8))
    assert coarse.dtype == torch.bool
    assert upsample_to_input(torch.randn(1, 4, 4).bfloat16(), (16, 16)).dtype == torch.float32
