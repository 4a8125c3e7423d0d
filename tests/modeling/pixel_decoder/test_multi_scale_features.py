"""Flattening maps and finding the way back."""

from __future__ import annotations

import torch

from hipie.modeling.pixel_decoder.multi_scale_features import Levels, flatten_levels, shrink_mask

SIZES = [(4, 6), (2, 3)]


def make_levels(valid: tuple[int, int] = (4, 6)) -> tuple[Levels, list[torch.Tensor]]:
    """Two levels of two images; the second covers only `valid` of the finer level."""
    mask = torch.zeros(2, *SIZES[0], dtype=torch.bool)
    mask[1, valid[0] :], mask[1, :, valid[1] :] = True, True
    masks = [mask, shrink_mask(mask, SIZES[1])]
    maps = [torch.randn(2, 5, *size) for size in SIZES]
    return flatten_levels(maps, [torch.zeros_like(one) for one in maps], masks), maps


def test_tokens_and_maps_are_the_same_numbers() -> None:
    levels, maps = make_levels()
    assert levels.tokens.shape == (2, 30, 5)
    assert levels.sizes == SIZES
    assert levels.shapes.tolist() == [[4, 6], [2, 3]]
    assert levels.starts.tolist() == [0, 24]
    torch.testing.assert_close(levels.tokens[1, 24 + 3 + 2], maps[1][1, :, 1, 2])
    for back, one in zip(levels.as_maps(levels.tokens), maps, strict=True):
        torch.testing.assert_close(back, one)


def test_centres_are_pixel_centres_on_every_canvas() -> None:
    levels, _ = make_levels(valid=(2, 4))
    centres = levels.centres()
    assert centres.shape == (2, 30, 2, 2)
    torch.testing.assert_close(centres[0, 6 + 3, 0], torch.tensor([3.5 / 6, 1.5 / 4]))
    torch.testing.assert_close(centres[0, 6 + 3, 1], torch.tensor([3.5 / 6, 1.5 / 4]))
    torch.testing.assert_close(levels.ratios[1, 0], torch.tensor([4 / 6, 2 / 4]))
    torch.testing.assert_close(centres[1, 6 + 3, 0], torch.tensor([3.5 / 6, 1.5 / 4]))
    seen_coarse = torch.tensor([3.5 / 4, 1.5 / 2]) * levels.ratios[1, 1]
    torch.testing.assert_close(centres[1, 6 + 3, 1], seen_coarse)


def test_masks_shrink_to_the_nearest_pixel() -> None:
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, :, 2:] = True
    assert shrink_mask(mask, (2, 2)).tolist() == [[[False, True], [False, True]]]
    assert shrink_mask(mask, (4, 4)).equal(mask)
